/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The store "kernel": msharefs itself, of the generations 2025-04 and 2025-08.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

static int answer(int result) { return result < 0 ? errno : 0; }

static int create_mapping(int fd, size_t offset, size_t size, int prot, int flags, int object)
{
    struct mshare_create wanted = {
        .where = offset, .size = size, .prot = prot, .flags = flags, .fd = (uint32_t)object};
    return ioctl(fd, CREATE_MAPPING_BY_OFFSET, &wanted);
}

/* The table of lib/mshare/kernel/probe.py, asked of a scratch file without a size. */
static int ask(struct store *store, int fd, struct outcome *outcome)
{
    char bytes[sizeof(struct mshare_info)] = "";
    const int answers[] = {
        answer(kernel_read(fd, bytes, sizeof bytes)),
        answer(ioctl(fd, GET_SIZE, bytes)),
        answer(ioctl(fd, UNMAP_BY_ADDRESS, bytes)),
    };
    if (answers[0] == EINVAL && answers[1] == answers[2] &&
        (answers[1] == ENOTTY || answers[1] == EINVAL) && ftruncate(fd, store->alignment_bytes) == 0) {
        int unused = 0x7fffffff;
        int code = answer(create_mapping(fd, 0, PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_FIXED, unused));
        store->owned = code == EBADF;
        if (code == EBADF || code == EINVAL)
            return 0;
    }
    fail(outcome, ENOMEM,
         "msharefs at %s speaks neither generation 2025-04 nor 2025-08, which the preload"
         " needs (`mshare info` shows which it is)",
         settings()->root);
    return -1;
}

static int prepare(struct store *store, struct outcome *outcome)
{
    char name[64];
    snprintf(name, sizeof name, "probe.%d", (int)getpid());
    struct path path = root_path(name);
    int fd = open_file(path.text, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0) {
        fail(outcome, ENOMEM,
             "%s cannot be created (%s); let this user into msharefs (mode and group of the mount)",
             path.text, reason(errno));
        return -1;
    }
    unlink(path.text);
    int result = ask(store, fd, outcome);
    close(fd);
    return result;
}

static int map(struct region *region, int fd, size_t offset, size_t size, int flags,
               struct outcome *outcome)
{
    int all = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS | flags;
    if (create_mapping(fd, offset, size, PROT_READ | PROT_WRITE, all, -1) == 0)
        return 0;
    const char *step = flags & MAP_HUGETLB
                           ? "huge pages need generation 2025-08 and a large enough vm.nr_hugepages"
                           : "see `mshare info`, and vm.overcommit_memory";
    fail(outcome, errno, "%s cannot be mapped in region %s (%s); %s", size_text(size).text, region->name,
         reason(errno), step);
    return -1;
}

static int fill_in(struct region *region, int fd, int map_flags, struct outcome *outcome)
{
    struct stat file;
    flock(fd, LOCK_SH);
    if (fstat(fd, &file) == 0 && ftruncate(fd, region->window_bytes) == 0) {
        region->device = file.st_dev;
        region->inode = file.st_ino;
        return map(region, fd, 0, region->mapped_bytes, map_flags, outcome);
    }
    fail(outcome, errno, "the window of region %s cannot be set to %s (%s)", region->name,
         size_text(region->window_bytes).text, reason(errno));
    return -1;
}

static int create(struct region *region, int map_flags, struct outcome *outcome)
{
    struct path path = root_path(region->name);
    region->window_bytes = round_up(region->mapped_bytes, kernel_store.alignment_bytes);
    if (!file_size_room(region->window_bytes, outcome))
        return -1;
    int fd = open_file(path.text, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0) {
        fail(outcome, errno, "region %s cannot be created (%s); let this user into msharefs", path.text,
             reason(errno));
        return -1;
    }
    if (fill_in(region, fd, map_flags, outcome) == 0)
        return fd;
    unlink(path.text);
    close(fd);
    return -1;
}

static int open_region(struct region *region, struct outcome *outcome)
{
    int fd = store_open(region, outcome);
    /* The kernel tells nobody what is mapped in a region. */
    if (!region->mapped_bytes)
        region->mapped_bytes = settings()->region_bytes ? settings()->region_bytes : region->window_bytes;
    return fd;
}

static int attach_window(struct region *region, int fd, int prot, struct outcome *outcome)
{
    void *window = kernel_mmap(NULL, region->window_bytes, prot, MAP_SHARED, fd, 0);
    if (window == MAP_FAILED) {
        fail(outcome, errno,
             "the window of region %s cannot be attached (%s); is its owner alive, and"
             " RLIMIT_AS (ulimit -v) unlimited?",
             region->name, reason(errno));
        return -1;
    }
    /* What reads a page of it that is not there, as gcore does, makes the kernel warn. */
    kernel_madvise(window, region->window_bytes, MADV_DONTDUMP);
    region->address = window;
    return 0;
}

/* Whole: of a part of an object UNMAP frees the tables, but not the memory. */
static int clear(struct region *region, int fd, struct outcome *outcome)
{
    struct mshare_unmap all = {.where = 0, .size = region->mapped_bytes};
    /* There may be nothing. */
    if (ioctl(fd, UNMAP_BY_OFFSET, &all) == 0 || errno == EINVAL)
        return 0;
    fail(outcome, errno, "what is mapped in region %s cannot be unmapped (%s)", region->name,
         reason(errno));
    return -1;
}

static void unlink_region(const char *name) { unlink(root_path(name).text); }

struct store kernel_store = {
    .name = "kernel",
    .holds_window = true,
    .prepare = prepare,
    .create = create,
    .open = open_region,
    .attach = attach_window,
    .clear = clear,
    .renew = map,
    .unlink = unlink_region,
};
