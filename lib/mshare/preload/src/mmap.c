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

/* A file that is mapped for reading, or for reading and writing, where the kernel likes. Code is never shared
 * so: a loader maps it at addresses of its own. Pages that the program wants at once stay the kernel's, for
 * in a window they can only be had by touching them, and beyond the end of the file that is SIGBUS. */
static bool is_file_for_us(const struct request *request)
{
    enum { OTHERS = MAP_POPULATE | MAP_NONBLOCK | MAP_HUGETLB | (KEPT_AS_IT_IS & ~MAP_NORESERVE) };
    return settings()->files[0] && request->kind == POSIX && request->fd >= 0 && !request->small &&
           request->size <= largest_bytes && request->offset >= 0 &&
           request->offset % (off_t)PAGE_BYTES == 0 && !request->hint &&
           (request->flags & MAP_TYPE) == MAP_SHARED && !(request->flags & OTHERS) &&
           (request->prot & ~PROT_WRITE) == PROT_READ;
}

/* Before other memory comes to lie at a range of addresses. */
static int make_way(void *address, size_t size)
{
    if (files_overlap((uintptr_t)address, size) && files_give_back((uintptr_t)address, size, NULL) < 0)
        return -1;
    return region_overlaps(address, size) ? region_unmap_guarded(address, size) : 0;
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
    } else if (is_file_for_us(&request)) {
        return files_map(&request);
    }
    if (flags & MAP_FIXED && make_way(address, size) < 0)
        return MAP_FAILED;
    return kernel_mmap(address, size, prot, flags, fd, offset);
}

EXPORTED void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

EXPORTED int munmap(void *address, size_t size)
{
    if (!size || (uintptr_t)address % PAGE_BYTES)
        return kernel_munmap(address, size);
    if (files_overlap((uintptr_t)address, size) && files_give_back((uintptr_t)address, size, NULL) < 0)
        return -1;
    if (!region_overlaps(address, size))
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
    if (files_overlap((uintptr_t)address, size ? size : PAGE_BYTES) &&
        files_give_back((uintptr_t)address, size ? size : PAGE_BYTES, "mremap") < 0)
        return MAP_FAILED;
    if (target && make_way(target, new_size) < 0)
        return MAP_FAILED;
    return kernel_mremap(address, size, new_size, flags, target);
}
