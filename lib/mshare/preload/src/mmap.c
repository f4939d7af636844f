/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * mmap, munmap and mremap: anonymous shared memory, and POSIX shared memory by the file it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload.h"

#define EXPORTED __attribute__((visibility("default")))

/* What a program asks for that a segment at another address, or in a region, cannot keep: an address of its
 * own, memory that stays sparse (prefaulting would fill it) or is locked (which a region cannot be). */
enum {
    KEPT_AS_IT_IS = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE | MAP_LOCKED | MAP_32BIT | MAP_GROWSDOWN
};

static const size_t largest_bytes = 1UL << 46;

/* shm_open makes a file in /dev/shm. PostgreSQL's dsm is there as well: it comes and goes by the query. */
static bool is_posix_shared(int fd)
{
    static const char folder[] = "/dev/shm/", dsm[] = "/dev/shm/PostgreSQL.";
    char link[32], path[320];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return false;
    path[length] = 0;
    /* shm_open's names have no further slash. */
    const char *name = path + strlen(folder);
    return !strncmp(path, folder, strlen(folder)) && !strchr(name, '/') && strncmp(path, dsm, strlen(dsm));
}

/* Left alone as well: what the program may not write yet, and explicit huge pages where thp was asked for:
 * they are better than those. */
static bool is_plain(const struct request *request)
{
    const struct settings *wanted = settings();
    int all = PROT_READ | (request->kind == ANONYMOUS ? PROT_WRITE : 0);
    return (request->flags & MAP_TYPE) == MAP_SHARED && !(request->flags & KEPT_AS_IT_IS) &&
           !request->hint && (request->prot & all) == all &&
           !(request->flags & MAP_HUGETLB && wanted->pages == PAGES_THP);
}

static bool is_for_us(const struct request *request)
{
    /* The kernel says what is wrong with these. */
    if (!request->size || request->size > largest_bytes || request->offset < 0 ||
        request->offset % (off_t)PAGE_BYTES)
        return false;
    if (request->kind == ANONYMOUS)
        return !request->special && !request->small;
    /* Every other mapping of a file counts as well where others may have a region instead of it. */
    bool left = request->special || request->small;
    if (request->fd < 0 || (left && settings()->backend == BACKEND_NONE))
        return false;
    int before = errno;
    bool ours = is_posix_shared(request->fd);
    errno = before;
    return ours;
}

EXPORTED void *mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    bool anonymous = flags & MAP_ANONYMOUS;
    struct request request = {
        .kind = anonymous ? ANONYMOUS : POSIX,
        .size = size,
        .prot = prot,
        .flags = flags,
        .fd = anonymous ? -1 : fd,
        /* Anonymous memory has none, whatever the program passes. */
        .offset = anonymous ? offset % (off_t)PAGE_BYTES : offset,
        .hint = address,
        .small = size < settings()->threshold_bytes,
    };
    request.special = !is_plain(&request);
    if (is_for_us(&request)) {
        void *taken = take(&request);
        if (taken)
            return taken;
    }
    if (flags & MAP_FIXED && region_overlaps(address, size) && region_unmap_guarded(address, size) < 0)
        return MAP_FAILED;
    return kernel_mmap(address, size, prot, flags, fd, offset);
}

EXPORTED void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

EXPORTED int munmap(void *address, size_t size)
{
    if (!size || (uintptr_t)address % PAGE_BYTES || !region_overlaps(address, size))
        return kernel_munmap(address, size);
    return region_unmap_guarded(address, size);
}

/* A window can neither be moved nor cut: on a kernel that fails, or does harm. */
EXPORTED void *mremap(void *address, size_t size, size_t new_size, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    void *target = flags & MREMAP_FIXED ? va_arg(more, void *) : NULL;
    va_end(more);
    if (region_overlaps(address, size ? size : PAGE_BYTES)) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    if (target && region_overlaps(target, new_size) && region_unmap_guarded(target, new_size) < 0)
        return MAP_FAILED;
    return kernel_mremap(address, size, new_size, flags, target);
}
