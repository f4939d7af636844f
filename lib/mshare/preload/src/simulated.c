/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The store "simulated": msharefs as lib/mshare/backends/simulated/backend.py plays it, with the files that
 * layout.py there describes, so that every tool sees the region. What differs: this process does not
 * follow changes that others make, nor the end of an owner.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

/* Beside the region: sales/sga has sales/.simulated/sga.json. */
static struct path sidecar_name(const char *name, const char *suffix)
{
    struct path path;
    const char *slash = strrchr(name, '/');
    int above = slash ? (int)(slash - name) + 1 : 0;
    snprintf(path.text, sizeof path.text, "%.*s.simulated/%s%s", above, name, name + above, suffix);
    return path;
}

static struct path sidecar_path(const char *name, const char *suffix)
{
    return root_path(sidecar_name(name, suffix).text);
}

/* While names come and go, a region file and its sidecar are seen together or not at all. */
static int lock_names(struct outcome *outcome)
{
    struct path path = sidecar_path("layout", ".json");
    int fd = open_file(path.text, O_RDONLY);
    if (fd >= 0 && lock_or_fail(fd, path.text, outcome))
        return fd;
    if (fd >= 0)
        close(fd);
    else
        fail(outcome, ENOMEM, "%s cannot be opened (%s)", path.text, reason(errno));
    return -1;
}

static void unlock_names(int fd)
{
    if (fd >= 0)
        unlock_and_close(fd);
}

static void read_and_close(int fd, char *text, size_t size)
{
    ssize_t length = fd < 0 ? 0 : kernel_read(fd, text, size - 1);
    text[length > 0 ? length : 0] = 0;
    if (fd >= 0)
        close(fd);
}

static void read_text(const char *path, char *text, size_t size)
{
    read_and_close(open_file(path, O_RDONLY), text, size);
}

static int prepare(struct store *store, struct outcome *outcome)
{
    char layout[512];
    read_text(sidecar_path("layout", ".json").text, layout, sizeof layout);
    bool newest = strstr(layout, "\"generation\": \"2025-08\"");
    if (!newest && !strstr(layout, "\"generation\": \"2025-04\"")) {
        fail(outcome, ENOMEM,
             "%s holds no simulated msharefs of generation 2025-04 or 2025-08 that this user may"
             " read; create one with `mshare mount --backend simulated`",
             settings()->root);
        return -1;
    }
    store->owned = newest;
    return 0;
}

static unsigned long long started_ticks(void)
{
    char text[1024];
    read_text("/proc/thread-self/stat", text, sizeof text);
    /* The command's name may hold spaces and brackets: fields are counted from its end. */
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static int write_sidecar(const struct region *region, ino_t inode)
{
    char owner[128] = "null", text[1024];
    if (simulated_store.owned)
        snprintf(owner, sizeof owner, "{\"pid\": %d, \"thread\": %d, \"started_ticks\": %llu}",
                 (int)getpid(), (int)gettid(), started_ticks());
    int length = snprintf(
        text, sizeof text,
        "{\"inode\": %llu, \"owner\": %s, \"size_used\": true, \"window_bytes\": %zu, \"address\": null,"
        " \"next_serial\": 2, \"placed\": [{\"mapping\": {\"offset\": 0, \"size_bytes\": %zu,"
        " \"kind\": \"anonymous\", \"prot\": %d, \"path\": null, \"object_offset\": 0}, \"serial\": 1,"
        " \"device\": 0, \"inode\": 0, \"holder_pid\": 0, \"holder_fd\": -1}]}\n",
        (unsigned long long)inode, owner, region->window_bytes, region->mapped_bytes,
        PROT_READ | PROT_WRITE);
    /* Never through a link, or into a file, that somebody has put there: what is left of an earlier region
     * of this name goes first. */
    struct path sidecar = sidecar_path(region->name, ".json"), bell = sidecar_path(region->name, ".bell");
    unlink(sidecar.text);
    unlink(bell.text);
    int fd = open_file(sidecar.text, O_WRONLY | O_CREAT | O_EXCL);
    if (fd < 0)
        return -1;
    ssize_t written = kernel_write(fd, text, length);
    close(fd);
    return written == length ? mkfifo(bell.text, 0600) : -1;
}

static void remove_files(const char *name)
{
    unlink(root_path(name).text);
    unlink(sidecar_path(name, ".json").text);
    unlink(sidecar_path(name, ".bell").text);
}

static void unlink_region(const char *name)
{
    struct outcome ignored = {0};
    int names = lock_names(&ignored);
    remove_files(name);
    unlock_names(names);
}

/* A full tmpfs answers a touch with SIGBUS: ask for the room before. */
static int make_room(int fd, size_t offset, size_t size, struct outcome *outcome)
{
    if (!settings()->prefault)
        return tmpfs_room(settings()->root, size, outcome) ? 0 : -1;
    return fallocate(fd, 0, offset, size);
}

static int fill_in(struct region *region, int fd, struct outcome *outcome)
{
    struct stat file;
    flock(fd, LOCK_SH);
    if (fstat(fd, &file) < 0 || ftruncate(fd, region->window_bytes) < 0 ||
        make_room(fd, 0, region->mapped_bytes, outcome) < 0)
        return -1;
    region->device = file.st_dev;
    region->inode = file.st_ino;
    return write_sidecar(region, file.st_ino);
}

static int refuse_huge(int map_flags, struct outcome *outcome)
{
    if (!(map_flags & MAP_HUGETLB))
        return 0;
    fail(outcome, ENOMEM,
         "a simulated region created by the preload has no huge pages; use pages hugetlb without"
         " a region");
    return -1;
}

static int create(struct region *region, int map_flags, struct outcome *outcome)
{
    region->window_bytes = round_up(region->mapped_bytes, simulated_store.alignment_bytes);
    if (refuse_huge(map_flags, outcome) < 0 || !file_size_room(region->window_bytes, outcome))
        return -1;
    int names = lock_names(outcome);
    if (names < 0)
        return -1;
    struct path path = root_path(region->name);
    int fd = open_file(path.text, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0 || fill_in(region, fd, outcome) < 0) {
        if (!outcome->why[0])
            fail(outcome, errno,
                 "region %s of %s cannot be created (%s); let this user into it, and see that the tmpfs has"
                 " room",
                 path.text, size_text(region->mapped_bytes).text, reason(errno));
        if (fd >= 0) {
            remove_files(region->name);
            close(fd);
        }
        fd = -1;
    }
    unlock_names(names);
    return fd;
}

/* What is mapped first in a region: the form is that of Record.to_json in layout.py. */
static size_t first_mapping_bytes(const char *name)
{
    static const char start[] = "\"placed\": [{\"mapping\": {\"offset\": 0, \"size_bytes\": ";
    char text[4096];
    read_and_close(open_below_root(sidecar_name(name, ".json").text, O_RDONLY), text, sizeof text);
    char *at = strstr(text, start), *end;
    if (!at)
        return 0;
    size_t size = strtoull(at + strlen(start), &end, 10);
    return strncmp(end, ", \"kind\": \"anonymous\"", 21) ? 0 : size;
}

static int open_region(struct region *region, struct outcome *outcome)
{
    int fd = store_open(region, outcome);
    if (fd < 0)
        return -1;
    region->mapped_bytes = first_mapping_bytes(region->name);
    if (region->mapped_bytes && region->mapped_bytes <= region->window_bytes)
        return fd;
    fail(outcome, ENOMEM, "region %s does not begin with anonymous memory; create it with --size",
         root_path(region->name).text);
    close(fd);
    return -1;
}

static int attach_window(struct region *region, int fd, int prot, struct outcome *outcome)
{
    char *window = reserve(region->window_bytes, simulated_store.alignment_bytes, 0);
    if (!window) {
        fail(outcome, ENOMEM, "no address space for the window of %s (%s); raise RLIMIT_AS (ulimit -v)",
             size_text(region->window_bytes).text, reason(errno));
        return -1;
    }
    if (kernel_mmap(window, region->mapped_bytes, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        fail(outcome, errno, "the window of region %s cannot be attached (%s)", region->name,
             reason(errno));
        kernel_munmap(window, region->window_bytes);
        return -1;
    }
    region->address = window;
    return 0;
}

static bool zero(int fd, off_t at, off_t end)
{
    static char zeros[64 << 10];
    while (at < end) {
        off_t size = end - at < (off_t)sizeof zeros ? end - at : (off_t)sizeof zeros;
        ssize_t written = kernel_pwrite(fd, zeros, size, at);
        if (written <= 0)
            return false;
        at += written;
    }
    return true;
}

/* Overwritten, not freed: as with mshare, the owner's cgroup pays for a page, no matter who touches it. */
static int clear(struct region *region, int fd, struct outcome *outcome)
{
    if (!file_size_room(region->mapped_bytes, outcome))
        return -1;
    off_t end = (off_t)region->mapped_bytes, from, to = 0;
    while ((from = lseek(fd, to, SEEK_DATA)) >= 0 && from < end) {
        to = lseek(fd, from, SEEK_HOLE);
        to = to < end ? to : end;
        if (!zero(fd, from, to)) {
            fail(outcome, errno, "what is in region %s cannot be overwritten (%s)", region->name,
                 reason(errno));
            return -1;
        }
    }
    return 0;
}

static int renew(struct region *region, int fd, size_t offset, size_t size, int map_flags,
                 struct outcome *outcome)
{
    if (refuse_huge(map_flags, outcome) < 0 ||
        (settings()->prefault && !memory_room(absent_bytes(region->address + offset, size), outcome)))
        return -1;
    if (make_room(fd, offset, size, outcome) == 0)
        return 0;
    if (!outcome->why[0])
        fail(outcome, errno, "%s in region %s is not available (%s); give the tmpfs more room",
             size_text(size).text, region->name, reason(errno));
    return -1;
}

struct store simulated_store = {
    .name = "simulated",
    .protects = true,
    .prepare = prepare,
    .create = create,
    .open = open_region,
    .attach = attach_window,
    .clear = clear,
    .renew = renew,
    .unlink = unlink_region,
};
