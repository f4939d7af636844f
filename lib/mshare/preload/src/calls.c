/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The interposed calls as the kernel has them. Directly, not by dlsym(RTLD_NEXT): that allocates
 * memory, and the first mmap may come before anything is set up.
 */
#define _GNU_SOURCE
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

void *kernel_mmap(void *address, size_t size, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, size, prot, flags, fd, offset);
}

int kernel_munmap(void *address, size_t size) { return syscall(SYS_munmap, address, size); }

void *kernel_mremap(void *address, size_t size, size_t new_size, int flags, void *target)
{
    return (void *)syscall(SYS_mremap, address, size, new_size, flags, target);
}

ssize_t kernel_read(int fd, void *buffer, size_t size) { return syscall(SYS_read, fd, buffer, size); }

ssize_t kernel_write(int fd, const void *buffer, size_t size)
{
    return syscall(SYS_write, fd, buffer, size);
}

ssize_t kernel_pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
    return syscall(SYS_pwrite64, fd, buffer, size, offset);
}

int kernel_mprotect(void *address, size_t size, int prot)
{
    return syscall(SYS_mprotect, address, size, prot);
}

int kernel_madvise(void *address, size_t size, int advice)
{
    return syscall(SYS_madvise, address, size, advice);
}

int kernel_msync(void *address, size_t size, int flags) { return syscall(SYS_msync, address, size, flags); }

int kernel_mincore(void *address, size_t size, unsigned char *pages)
{
    return syscall(SYS_mincore, address, size, pages);
}

int kernel_shmget(int key, size_t size, int flags) { return syscall(SYS_shmget, key, size, flags); }

void *kernel_shmat(int id, const void *address, int flags)
{
    return (void *)syscall(SYS_shmat, id, address, flags);
}

int kernel_shmdt(const void *address) { return syscall(SYS_shmdt, address); }

int kernel_shmctl(int id, int command, struct shmid_ds *buffer)
{
    return syscall(SYS_shmctl, id, command, buffer);
}
