/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * mmap and munmap: anonymous shared memory, and POSIX shared memory by the file it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload.h"

#define EXPORTED __attribute__((visibility("default")))

/* shm_open makes a file in /dev/shm. PostgreSQL's dsm is there as well: it comes and goes by the query. */
static bool is_posix_shared(int fd)
{
    static const char folder[] = "/dev/shm/", dsm[] = "/dev/shm/PostgreSQL.";
    char link[32], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return false;
    path[length] = 0;
    /* shm_open's names have no further slash. */
    const char *name = path + strlen(folder);
    return !strncmp(path, folder, strlen(folder)) && !strchr(name, '/') && strncmp(path, dsm, strlen(dsm));
}

/* Left alone: what the program wants at its own address, sparse (prefaulting would fill it), or locked
 * (which a region cannot be), what it may not write yet, and explicit huge pages where thp was asked for:
 * they are better than those. */
static bool is_for_us(size_t size, int prot, int flags, int fd)
{
    int all = PROT_READ | (flags & MAP_ANONYMOUS ? PROT_WRITE : 0);
    int unwanted = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE | MAP_LOCKED;
    if ((flags & MAP_TYPE) == MAP_PRIVATE || flags & unwanted || (prot & all) != all)
        return false;
    const struct settings *wanted = settings();
    if (size < wanted->threshold_bytes || (flags & MAP_HUGETLB && wanted->pages == PAGES_THP))
        return false;
    int before = errno;
    bool ours = flags & MAP_ANONYMOUS || is_posix_shared(fd);
    errno = before;
    return ours;
}

EXPORTED void *mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    if (is_for_us(size, prot, flags, fd)) {
        struct request request = {
            .kind = flags & MAP_ANONYMOUS ? ANONYMOUS : POSIX,
            .size = size,
            .prot = prot,
            .flags = flags,
            .fd = fd,
            .offset = offset,
        };
        void *taken = take(&request);
        if (taken)
            return taken;
    }
    return kernel_mmap(address, size, prot, flags, fd, offset);
}

EXPORTED void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

EXPORTED int munmap(void *address, size_t size) { return unmap(address, size); }
