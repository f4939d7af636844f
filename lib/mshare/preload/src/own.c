/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * By default whoever asks makes a region of its own, which lives and dies with it: preload.PID.NUMBER, or
 * preload.PID.sysv.ID and preload.PID.posix.INODE, under which other processes find the region of a SysV
 * segment and of a POSIX file.
 *
 * Whoever has a region open holds a shared lock on its file, and so do the children forked from it: a
 * name that can be locked exclusively was left behind.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

static const char prefix[] = "preload.";

static _Atomic int numbers;

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && !strcmp(text + length - wanted, end);
}

/* Unlink names that nobody holds any more, and find the one that ends as asked for; true if there is. */
static bool find(const char *ending, char *name)
{
    bool found = false;
    DIR *folder = opendir(settings()->root);
    struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)))
            continue;
        int fd = open(root_path(entry->d_name).text, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            region_store()->unlink(entry->d_name);
        } else if (*ending && ends_with(entry->d_name, ending)) {
            snprintf(name, NAME_BYTES, "%s", entry->d_name);
            found = true;
        }
        if (fd >= 0)
            close(fd);
    }
    if (folder)
        closedir(folder);
    return found;
}

static int create(struct region *region, const char *ending, int map_flags, struct outcome *outcome)
{
    if (region_store()->owned && gettid() != getpid()) {
        fail(outcome, ENOMEM,
             "thread %d asks for it, and a region would die with that thread; it must be asked"
             " for by the main thread",
             (int)gettid());
        return -1;
    }
    int result;
    do {
        if (*ending)
            snprintf(region->name, NAME_BYTES, "%s%d%s", prefix, (int)getpid(), ending);
        else
            snprintf(region->name, NAME_BYTES, "%s%d.%d", prefix, (int)getpid(), ++numbers);
        result = region_store()->create(region, map_flags, outcome);
        /* The same pid in another pid namespace may have the name. */
    } while (result < 0 && outcome->code == EEXIST && !*ending);
    if (result == 0)
        region->maker = getpid();
    return result;
}

/* The name's ending, and for a POSIX file its size. */
static int identify(const struct request *request, char *ending, struct stat *file, struct outcome *outcome)
{
    ending[0] = 0;
    if (request->kind == SYSV)
        snprintf(ending, 64, ".sysv.%d", request->shmid);
    if (request->kind != POSIX)
        return 0;
    if (fstat(request->fd, file) < 0) {
        fail(outcome, errno, "its file cannot be looked at (%s)", strerror(errno));
        return -1;
    }
    snprintf(ending, 64, ".posix.%llu", (unsigned long long)file->st_ino);
    return 0;
}

/* Whoever makes a region under a segment's name gets to see what others write into it. */
static int check_user(const struct region *region, struct outcome *outcome)
{
    struct stat found;
    if (fstat(region->fd, &found) == 0 && found.st_uid == geteuid())
        return 0;
    fail(outcome, EACCES, "region %s belongs to another user; processes of one user share a segment",
         region->name);
    return -1;
}

/* The region of a segment: one of this process, one that another made, or a new one. */
static struct region *obtain(const struct request *request, const char *used, struct outcome *outcome)
{
    char ending[64];
    struct stat file = {0};
    if (identify(request, ending, &file, outcome) < 0)
        return NULL;
    char name[NAME_BYTES];
    bool exists = find(ending, name);
    for (int i = 0; exists && i < REGIONS; i++)
        if (regions[i].taken && !regions[i].segments && !strcmp(regions[i].name, name))
            return &regions[i];
    if (used && !exists)
        return fail(outcome, ENOMEM, "%s", used);
    struct region *region = region_new(request);
    if (!region)
        return fail(outcome, ENOMEM, "this process has %d regions already, the most there can be", REGIONS);
    region->shmid = request->shmid;
    region->shadow_fd = request->kind == POSIX ? fcntl(request->fd, F_DUPFD_CLOEXEC, 3) : -1;
    region->mapped_bytes =
        round_up(request->kind == POSIX ? (size_t)file.st_size : request->size,
                 region_page_flags(request) & MAP_HUGETLB ? HUGE_PAGE_BYTES : PAGE_BYTES);
    int result = -1;
    if (exists) {
        snprintf(region->name, NAME_BYTES, "%s", name);
        result = region_store()->open(region, outcome);
        if (result == 0)
            result = check_user(region, outcome);
        outcome->final = result < 0;
    } else if (!settings()->prefault || can_prefault(region->mapped_bytes, outcome)) {
        result = create(region, ending, region_page_flags(request), outcome);
    }
    if (result < 0) {
        region_drop(region);
        return NULL;
    }
    return region;
}

void region_take_own(const struct request *request, const char *used, void *shadow, struct outcome *outcome)
{
    region_sweep();
    int lock = open(settings()->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) < 0) {
        fail(outcome, ENOMEM,
             "%s cannot be opened (%s); mount it with `mshare mount`, and let this user in",
             settings()->root, strerror(errno));
        return;
    }
    struct region *region = obtain(request, used, outcome);
    close(lock);
    if (!region)
        return;
    bool fresh = region->maker == getpid() && !region->attached_before;
    bool fits = request->offset + request->size <= region->mapped_bytes + PAGE_BYTES - 1;
    if (!fits) {
        fail(outcome, ENOMEM, "it has grown since its region %s of %s was made", region->name,
             size_text(region->mapped_bytes).text);
        outcome->final = true;
    } else if (!region->address && region_store()->attach(region, request->prot, outcome) < 0) {
        /* Nobody else knows of a fresh one: it may go, and the original call be made. */
        outcome->final = !fresh;
    } else {
        region->attached_before = true;
        if (fresh && settings()->prefault && request->prot & PROT_WRITE)
            region_prefault(region->address, region->mapped_bytes, outcome);
        region_hand_over(request, region, request->offset, shadow, outcome);
        return;
    }
    if (!region->segments)
        region_drop(region);
}
