/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Direct I/O with a mapped file for a buffer, as mdb_copy writes its copy. The kernel hands such pages to the
 * device, and cannot fetch them through a window: EFAULT, with a warning in its log. So the mapping becomes the
 * kernel's own before. The C library's functions do the rest, for a thread may be cancelled in them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload.h"

#define EXPORTED __attribute__((visibility("default")))

/* The C library's functions under the names that nobody interposes. */
ssize_t __read(int, void *, size_t);
ssize_t __write(int, const void *, size_t);
ssize_t __pread64(int, void *, size_t, off_t);
ssize_t __pwrite64(int, const void *, size_t, off_t);

static bool is_direct(int fd)
{
    int before = errno, flags = fcntl(fd, F_GETFL);
    errno = before;
    return flags >= 0 && flags & O_DIRECT;
}

static int prepare(int fd, uintptr_t buffer, size_t size)
{
    if (!size || !files_overlap(buffer, size) || !is_direct(fd))
        return 0;
    return files_give_back(buffer, size, "direct I/O");
}

static int prepare_all(int fd, const struct iovec *parts, int count)
{
    if (!files_any() || !is_direct(fd))
        return 0;
    for (int i = 0; i < count; i++)
        if (prepare(fd, (uintptr_t)parts[i].iov_base, parts[i].iov_len) < 0)
            return -1;
    return 0;
}

EXPORTED ssize_t read(int fd, void *buffer, size_t size)
{
    return prepare(fd, (uintptr_t)buffer, size) < 0 ? -1 : __read(fd, buffer, size);
}

EXPORTED ssize_t write(int fd, const void *buffer, size_t size)
{
    return prepare(fd, (uintptr_t)buffer, size) < 0 ? -1 : __write(fd, buffer, size);
}

EXPORTED ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
    return prepare(fd, (uintptr_t)buffer, size) < 0 ? -1 : __pread64(fd, buffer, size, offset);
}

EXPORTED ssize_t pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
    return prepare(fd, (uintptr_t)buffer, size) < 0 ? -1 : __pwrite64(fd, buffer, size, offset);
}

EXPORTED ssize_t pread64(int, void *, size_t, off_t) __attribute__((alias("pread")));
EXPORTED ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));

/* A point at which a thread may be cancelled, as in the C library. The kernel takes an offset in two parts. */
static ssize_t cancellable(long number, int fd, const struct iovec *parts, int count, off_t offset)
{
    int type, ignored;
    if (prepare_all(fd, parts, count) < 0)
        return -1;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    ssize_t result = syscall(number, fd, parts, count, offset, 0L);
    pthread_setcanceltype(type, &ignored);
    return result;
}

EXPORTED ssize_t readv(int fd, const struct iovec *parts, int count)
{
    return cancellable(SYS_readv, fd, parts, count, 0);
}

EXPORTED ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return cancellable(SYS_writev, fd, parts, count, 0);
}

EXPORTED ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
    return cancellable(SYS_preadv, fd, parts, count, offset);
}

EXPORTED ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    return cancellable(SYS_pwritev, fd, parts, count, offset);
}

EXPORTED ssize_t preadv64(int, const struct iovec *, int, off_t) __attribute__((alias("preadv")));
EXPORTED ssize_t pwritev64(int, const struct iovec *, int, off_t) __attribute__((alias("pwritev")));
