/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * SysV shared memory. The real segment stays what it is to everybody: its identity, permissions, errnos,
 * nattch and end are the kernel's. Only where its memory lies is ours.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "preload.h"

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int shmget(key_t key, size_t size, int flags)
{
    const struct settings *wanted = settings();
    bool hugetlb = wanted->pages == PAGES_HUGETLB && wanted->backend == BACKEND_NONE && !wanted->wrong[0];
    if (hugetlb && size >= wanted->threshold_bytes && !(flags & SHM_HUGETLB))
        return hugetlb_shmget(key, size, flags);
    return kernel_shmget(key, size, flags);
}

EXPORTED void *shmat(int id, const void *address, int flags)
{
    int before = errno;
    struct shmid_ds segment;
    bool known = kernel_shmctl(id, IPC_STAT, &segment) == 0;
    bool in_regions = settings()->backend != BACKEND_NONE;
    errno = before;
    /* What the program does differently from others is for us only where others may have a region. */
    bool special = flags & (SHM_EXEC | SHM_REMAP);
    /* A segment that may not be looked at may still be attached (write-only): the kernel decides. */
    if (known && segment.shm_segsz >= settings()->threshold_bytes && (in_regions || !special)) {
        struct request request = {
            .kind = SYSV,
            .size = segment.shm_segsz,
            .prot = flags & SHM_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE,
            .flags = flags,
            .fd = -1,
            .shmid = id,
            .hint = address,
            .special = special,
        };
        void *taken = take(&request);
        if (taken)
            return taken;
    }
    if (known && flags & SHM_REMAP && files_overlap((uintptr_t)address, segment.shm_segsz) &&
        files_give_back((uintptr_t)address, segment.shm_segsz, NULL) < 0)
        return MAP_FAILED;
    if (known && flags & SHM_REMAP && region_overlaps(address, segment.shm_segsz) &&
        region_unmap_guarded((void *)address, segment.shm_segsz) < 0)
        return MAP_FAILED;
    return kernel_shmat(id, address, flags);
}

struct detaching {
    const void *address;
    int result;
};

static void detach(void *argument)
{
    struct detaching *detaching = argument;
    struct segment *segment = segment_at(detaching->address);
    detaching->result =
        segment && segment->shadow ? region_release(segment) : kernel_shmdt(detaching->address);
}

EXPORTED int shmdt(const void *address)
{
    if (!region_overlaps(address, PAGE_BYTES))
        return kernel_shmdt(address);
    struct detaching detaching = {.address = address};
    guarded(detach, &detaching);
    return detaching.result;
}

static void sweep(void *argument)
{
    (void)argument;
    region_sweep();
}

EXPORTED int shmctl(int id, int command, struct shmid_ds *buffer)
{
    int result = kernel_shmctl(id, command, buffer);
    if (result == 0 && command == IPC_RMID && settings()->backend != BACKEND_NONE)
        guarded(sweep, NULL);
    return result;
}
