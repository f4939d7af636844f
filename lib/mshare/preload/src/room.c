/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the program's limits still allow. A process that exceeds them is killed, by the OOM killer, a
 * SIGBUS or a SIGXFSZ, so each limit is asked before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "preload.h"

#define NODES "/sys/devices/system/node"

enum { MOST_NODES = 1024 };

/* Files that say how much a cgroup may take and has taken, and the lines of memory.stat that count what the
 * kernel gives back first. Version 2 has no name in /proc/self/cgroup. */
struct counter {
    const char *controller, *root, *limit, *usage, *reclaimable[2];
};

static const struct counter memory_counters[] = {
    {"", "/sys/fs/cgroup", "memory.max", "memory.current", {"active_file ", "inactive_file "}},
    {"", "/sys/fs/cgroup", "memory.high", "memory.current", {"active_file ", "inactive_file "}},
    {"", "/sys/fs/cgroup/unified", "memory.max", "memory.current", {"active_file ", "inactive_file "}},
    {"", "/sys/fs/cgroup/unified", "memory.high", "memory.current", {"active_file ", "inactive_file "}},
    {"memory",
     "/sys/fs/cgroup/memory",
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     {"total_active_file ", "total_inactive_file "}},
    {0},
};

static const struct counter huge_counters[] = {
    {"", "/sys/fs/cgroup", "hugetlb.2MB.max", "hugetlb.2MB.current", {0}},
    {"", "/sys/fs/cgroup/unified", "hugetlb.2MB.max", "hugetlb.2MB.current", {0}},
    {"hugetlb", "/sys/fs/cgroup/hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.usage_in_bytes", {0}},
    {0},
};

/* Whether a list like "cpu,memory" has the name; the empty list has the empty name only. */
static bool names(const char *list, const char *end, const char *name)
{
    size_t length = strlen(name);
    while (list <= end) {
        const char *comma = memchr(list, ',', end - list);
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - list) == length && !memcmp(list, name, length))
            return true;
        list = stop + 1;
    }
    return false;
}

/* The path of this process in a controller's hierarchy. */
static bool cgroup_path(const char *controller, char *path, size_t size)
{
    struct text text;
    char line[1024];
    bool matched = false;
    if (!text_open(&text, "/proc/self/cgroup"))
        return false;
    while (!matched && text_line(&text, line, sizeof line)) {
        char *list = strchr(line, ':');
        char *end = list ? strchr(list + 1, ':') : NULL;
        matched = end && names(list + 1, end, controller);
        if (matched)
            snprintf(path, size, "%s", end + 1);
    }
    text_close(&text);
    return matched;
}

static bool read_counter(const char *directory, const char *file, const char *key, size_t *number)
{
    char path[1280];
    return (size_t)snprintf(path, sizeof path, "%s/%s", directory, file) < sizeof path &&
           text_number(path, key, number);
}

/* What a cgroup's directory allows beyond what is taken; SIZE_MAX: it has no such limit. */
static size_t room_in(const char *directory, const struct counter *counter)
{
    size_t limit, usage, more;
    if (!read_counter(directory, counter->limit, "", &limit) ||
        !read_counter(directory, counter->usage, "", &usage))
        return SIZE_MAX;
    for (int i = 0; i < 2; i++)
        if (counter->reclaimable[i] &&
            read_counter(directory, "memory.stat", counter->reclaimable[i], &more))
            usage = usage > more ? usage - more : 0;
    return limit > usage ? limit - usage : 0;
}

/* The narrowest of the cgroups that this process is in. A container that sees only its own part of the
 * hierarchy finds it at the root, which comes last. */
static size_t cgroup_room(const struct counter *counters, char *limit, size_t size)
{
    size_t least = SIZE_MAX;
    for (const struct counter *counter = counters; counter->controller; counter++) {
        char path[1024], directory[1152];
        if (!cgroup_path(counter->controller, path, sizeof path))
            continue;
        if (!strcmp(path, "/"))
            path[0] = 0;
        for (char *end = path + strlen(path); end; end = strrchr(path, '/')) {
            *end = 0;
            snprintf(directory, sizeof directory, "%s%s", counter->root, path);
            size_t room = room_in(directory, counter);
            if (room < least) {
                least = room;
                snprintf(limit, size, "%s of %.200s", counter->limit, directory);
            }
        }
    }
    return least;
}

/* A list like "0,2-3" that follows a key in a file. */
static bool read_list(const char *path, const char *key, char *list, size_t size)
{
    struct text text;
    char line[256];
    bool matched = false;
    if (!text_open(&text, path))
        return false;
    while (!matched && text_line(&text, line, sizeof line)) {
        matched = !strncmp(line, key, strlen(key));
        if (matched)
            snprintf(list, size, "%s", line + strlen(key) + strspn(line + strlen(key), " \t"));
    }
    text_close(&text);
    return matched;
}

/* What a memory node can give: what is free, and the files that are given back first. */
static size_t node_room(long node)
{
    static const char *const counted[] = {"MemFree:", "Active(file):", "Inactive(file):"};
    char path[64], key[64];
    size_t room_kib = 0, kib;
    snprintf(path, sizeof path, NODES "/node%ld/meminfo", node);
    for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
        snprintf(key, sizeof key, "Node %ld %s", node, counted[i]);
        if (text_number(path, key, &kib))
            room_kib += kib;
    }
    return room_kib << 10;
}

/* What the memory nodes can give that a cpuset leaves to this process; SIZE_MAX: it has all of them. */
static size_t nodes_room(char *allowed, size_t size)
{
    char all[128];
    size_t room = 0;
    if (!read_list("/proc/self/status", "Mems_allowed_list:", allowed, size) ||
        !read_list(NODES "/has_memory", "", all, sizeof all) || !strcmp(allowed, all))
        return SIZE_MAX;
    for (char *at = allowed; *at;) {
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (end == at)
            return SIZE_MAX;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long node = first; node <= last && node < MOST_NODES; node++)
            room += node_room(node);
        at = *end == ',' ? end + 1 : end;
        if (*end && *end != ',')
            return SIZE_MAX;
    }
    return room;
}

bool memory_room(size_t size, struct outcome *outcome)
{
    char limit[256], nodes[128];
    size_t room = cgroup_room(memory_counters, limit, sizeof limit), available;
    size_t on_nodes = nodes_room(nodes, sizeof nodes);
    /* An eighth more, for what the program needs besides. */
    size_t wanted = size + size / 8;
    if (!size)
        return true;
    if (text_number("/proc/meminfo", "MemAvailable:", &available) && available < wanted >> 10)
        fail(outcome, ENOMEM,
             "prefaulting it needs more memory than is available (%s); make it smaller, or leave prefault"
             " off",
             size_text(available << 10).text);
    else if (room < wanted)
        fail(outcome, ENOMEM,
             "prefaulting it needs more memory than its cgroup may still take (%s, by %s); make it smaller,"
             " raise the limit, or turn prefault off",
             size_text(room).text, limit);
    else if (on_nodes < wanted)
        fail(outcome, ENOMEM,
             "prefaulting it needs more memory than its cpuset allows (%s, on memory node %s); make it"
             " smaller, allow more nodes (cpuset.mems), or turn prefault off",
             size_text(on_nodes).text, nodes);
    else
        return true;
    return false;
}

bool huge_page_room(size_t size, struct outcome *outcome)
{
    char limit[256];
    size_t room = cgroup_room(huge_counters, limit, sizeof limit);
    if (size <= room)
        return true;
    fail(outcome, ENOMEM, "its cgroup may take only %s more of huge pages (%s); raise the limit",
         size_text(room).text, limit);
    return false;
}

bool file_size_room(size_t size, struct outcome *outcome)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || size <= limit.rlim_cur)
        return true;
    fail(outcome, EFBIG,
         "its file of %s would be larger than RLIMIT_FSIZE (ulimit -f) allows (%s); raise it",
         size_text(size).text, size_text(limit.rlim_cur).text);
    return false;
}

bool tmpfs_room(const char *directory, size_t size, struct outcome *outcome)
{
    struct statvfs tmpfs;
    /* A tmpfs without a limit says that it has no blocks. */
    if (statvfs(directory, &tmpfs) < 0 || !tmpfs.f_blocks || size / tmpfs.f_frsize < tmpfs.f_bavail)
        return true;
    fail(outcome, ENOSPC, "the tmpfs at %s has room for %s only; give it more", directory,
         size_text(tmpfs.f_bavail * tmpfs.f_frsize).text);
    return false;
}
