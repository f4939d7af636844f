/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The regions of this process: a table of them, and what is the same for those it makes (own.c) and those
 * that exist (existing.c).
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

struct region regions[REGIONS];

struct store *region_store(void)
{
    return settings()->backend == BACKEND_KERNEL ? &kernel_store : &simulated_store;
}

struct region *region_new(const struct request *request)
{
    for (int i = 0; i < REGIONS; i++) {
        int free_slot = 0;
        if (__atomic_compare_exchange_n((int *)&regions[i].taken, &free_slot, 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            regions[i] = (struct region){.taken = 1, .fd = -1, .shadow_fd = -1, .kind = request->kind};
            return &regions[i];
        }
    }
    return NULL;
}

void region_drop(struct region *region)
{
    if (region->address)
        kernel_munmap(region->address, region->window_bytes);
    if (region->maker == getpid())
        region_store()->unlink(region->name);
    if (region->fd >= 0)
        close(region->fd);
    if (region->shadow_fd >= 0)
        close(region->shadow_fd);
    region->taken = 0;
}

/* Whether the SysV segment or the POSIX file is still there, whose memory a region is. */
static bool outlived(const struct region *region)
{
    struct shmid_ds segment;
    if (region->kind == SYSV)
        return kernel_shmctl(region->shmid, IPC_STAT, &segment) < 0 && errno != EACCES;
    struct stat found;
    return region->kind != POSIX || fstat(region->shadow_fd, &found) < 0 || found.st_nlink == 0;
}

void region_sweep(void)
{
    int before = errno;
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && regions[i].fd >= 0 && !regions[i].segments && outlived(&regions[i]))
            region_drop(&regions[i]);
    errno = before;
}

__attribute__((destructor)) static void take_names_away(void)
{
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && regions[i].fd >= 0 && regions[i].maker == getpid())
            region_store()->unlink(regions[i].name);
}

int region_release(struct segment *segment)
{
    struct region *region = segment->region;
    segment_clear(segment);
    if (--region->segments)
        return 0;
    /* What other processes may still ask for by name stays as long as its maker lives. */
    if (region->maker != getpid() || outlived(region)) {
        region_drop(region);
        return 0;
    }
    int result = kernel_munmap(region->address, region->window_bytes);
    region->address = NULL;
    return result;
}

int unmap(void *address, size_t size)
{
    struct segment *segment = segment_at(address);
    if (!segment)
        return kernel_munmap(address, size);
    bool all = round_up(size, PAGE_BYTES) >= round_up(segment->size, PAGE_BYTES);
    if (segment->region) {
        if (all)
            return region_release(segment);
        /* A window goes as a whole only, and the simulated one must not do what a kernel's cannot. */
        errno = EINVAL;
        return -1;
    }
    size_t whole = all ? segment->whole : size;
    if (all)
        segment_clear(segment);
    return kernel_munmap(address, whole);
}

/* The flags of mmap that say which pages a mapping inside the region has. */
int region_page_flags(const struct request *request)
{
    int asked = request->kind == SYSV ? 0 : request->flags & (MAP_NORESERVE | HUGE_FLAGS);
    return settings()->pages == PAGES_HUGETLB ? asked | MAP_HUGETLB : asked;
}

void region_prefault(char *address, size_t size, struct outcome *outcome)
{
    double start = now_seconds();
    touch(address, size, PAGE_BYTES, true);
    outcome->prefault_seconds = now_seconds() - start;
}

void region_hand_over(const struct request *request, struct region *region, size_t offset, void *shadow,
                      struct outcome *outcome)
{
    outcome->address = region->address + offset;
    snprintf(outcome->note, sizeof outcome->note, "in region %.120s", region->name);
    region->segments++;
    segment_add(outcome->address, request->size, 0, region, shadow);
}
