/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses and pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>

#include "preload.h"

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void *reserve(size_t size, size_t alignment, size_t offset)
{
    size_t whole = size + alignment;
    char *start = kernel_mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    size_t before = (offset - (uintptr_t)start) & (alignment - 1);
    if (before)
        kernel_munmap(start, before);
    if (alignment - before)
        kernel_munmap(start + before + size, alignment - before);
    return start + before;
}

void *place(const struct request *request, void *at, size_t size, int more_flags, int fd)
{
    if (request->kind == SYSV)
        return kernel_shmat(request->shmid, at, request->flags | SHM_REMAP);
    int flags = request->flags | MAP_FIXED | more_flags;
    if (request->kind == POSIX)
        return kernel_mmap(at, request->size, request->prot, flags, request->fd, request->offset);
    if (fd >= 0)
        flags &= ~MAP_ANONYMOUS;
    return kernel_mmap(at, size, request->prot, flags, fd, 0);
}

void touch(char *address, size_t size, size_t step, bool writable)
{
    for (size_t offset = 0; offset < size; offset += step)
        if (writable)
            __atomic_fetch_or(address + offset, 0, __ATOMIC_RELAXED);
        else
            __atomic_load_n(address + offset, __ATOMIC_RELAXED);
}

size_t huge_bytes(const void *address)
{
    FILE *smaps = fopen("/proc/self/smaps", "re");
    if (!smaps)
        return 0;
    char line[512];
    bool inside = false;
    size_t found = 0;
    while (fgets(line, sizeof line, smaps)) {
        unsigned long start, end, kilobytes;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start == (uintptr_t)address;
        else if (inside && (sscanf(line, "ShmemPmdMapped: %lu", &kilobytes) == 1 ||
                            sscanf(line, "FilePmdMapped: %lu", &kilobytes) == 1))
            found += kilobytes << 10;
    }
    fclose(smaps);
    return found;
}

bool can_prefault(size_t size, struct outcome *outcome)
{
    FILE *meminfo = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long kilobytes = 0;
    while (meminfo && fgets(line, sizeof line, meminfo))
        if (sscanf(line, "MemAvailable: %lu", &kilobytes) == 1)
            break;
    if (meminfo)
        fclose(meminfo);
    if (!kilobytes || size <= kilobytes << 10)
        return true;
    fail(outcome, ENOMEM,
         "prefaulting it needs more memory than is available (%s); make it smaller, or turn prefault off",
         size_text(kilobytes << 10).text);
    return false;
}

double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}
