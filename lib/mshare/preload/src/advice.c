/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The calls about a range of addresses that a window cannot answer as the kernel does for a file. What concerns
 * the file (write it back, read ahead, which pages are in memory) is asked of the twin. Everything else makes
 * the mapping the kernel's own first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

#define EXPORTED __attribute__((visibility("default")))

static int own_again(const void *address, size_t size, const char *call)
{
    return files_overlap((uintptr_t)address, size) ? files_give_back((uintptr_t)address, size, call) : 0;
}

EXPORTED int mprotect(void *address, size_t size, int prot)
{
    return own_again(address, size, "mprotect") < 0 ? -1 : kernel_mprotect(address, size, prot);
}

EXPORTED int pkey_mprotect(void *address, size_t size, int prot, int key)
{
    if (own_again(address, size, "pkey_mprotect") < 0)
        return -1;
    return key == -1 ? kernel_mprotect(address, size, prot)
                     : (int)syscall(SYS_pkey_mprotect, address, size, prot, key);
}

/* How the file is going to be read. On any other mapping these do no harm: a twin may be gone by the time. */
static bool is_about_reading(int advice)
{
    return advice == MADV_NORMAL || advice == MADV_RANDOM || advice == MADV_SEQUENTIAL ||
           advice == MADV_WILLNEED;
}

EXPORTED int madvise(void *address, size_t size, int advice)
{
    if (!files_overlap((uintptr_t)address, size))
        return kernel_madvise(address, size, advice);
    void *twin = is_about_reading(advice) ? files_twin(address, size) : NULL;
    if (twin)
        return kernel_madvise(twin, size, advice);
    return own_again(address, size, "this madvise") < 0 ? -1 : kernel_madvise(address, size, advice);
}

EXPORTED int posix_madvise(void *address, size_t size, int advice)
{
    /* As the C library: it would free pages, which the standard does not mean. */
    if (advice == POSIX_MADV_DONTNEED)
        return 0;
    int before = errno, code = madvise(address, size, advice) < 0 ? errno : 0;
    errno = before;
    return code;
}

EXPORTED int msync(void *address, size_t size, int flags)
{
    pthread_testcancel();
    void *twin = files_overlap((uintptr_t)address, size) ? files_twin(address, size) : NULL;
    if (twin) {
        int result = kernel_msync(twin, size, flags);
        /* Another thread may have had the mapping made the kernel's own meanwhile. */
        if (result == 0 || files_twin(address, size) == twin)
            return result;
    }
    return own_again(address, size, "msync beyond the mapping") < 0 ? -1
                                                                    : kernel_msync(address, size, flags);
}

EXPORTED int mincore(void *address, size_t size, unsigned char *pages)
{
    void *twin = files_overlap((uintptr_t)address, size) ? files_twin(address, size) : NULL;
    if (twin) {
        int result = kernel_mincore(twin, size, pages);
        if (result == 0 || files_twin(address, size) == twin)
            return result;
    }
    return own_again(address, size, "mincore beyond the mapping") < 0
               ? -1
               : kernel_mincore(address, size, pages);
}

EXPORTED int mlock(const void *address, size_t size)
{
    return own_again(address, size, "mlock") < 0 ? -1 : (int)syscall(SYS_mlock, address, size);
}

EXPORTED int mlock2(const void *address, size_t size, unsigned flags)
{
    return own_again(address, size, "mlock2") < 0 ? -1 : (int)syscall(SYS_mlock2, address, size, flags);
}

/* What is mapped later would be locked as well, and filled, which makes a kernel warn about a window. */
EXPORTED int mlockall(int flags)
{
    if (settings()->files[0] && files_give_back_all("mlockall") < 0)
        return -1;
    return syscall(SYS_mlockall, flags);
}

EXPORTED int remap_file_pages(void *address, size_t size, int prot, size_t page, int flags)
{
    if (own_again(address, size, "remap_file_pages") < 0)
        return -1;
    return syscall(SYS_remap_file_pages, address, size, prot, page, flags);
}
