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

/* Why memory that exists already must stay where it is; NULL: nobody has used it yet. */
static const char *used_before(const struct request *request)
{
    struct shmid_ds segment;
    struct stat file;
    if (request->kind == SYSV && kernel_shmctl(request->shmid, IPC_STAT, &segment) == 0 &&
        segment.shm_atime)
        return "it was attached before, without a region or with one whose owner is gone";
    if (request->kind == POSIX && fstat(request->fd, &file) == 0 && file.st_blocks)
        return "its file holds data already";
    return NULL;
}

void region_take(const struct request *request, struct outcome *outcome)
{
    if (store_prepare(region_store(), outcome) < 0)
        return;
    if (request->hint) {
        fail(outcome, ENOMEM, "the program wants it at %p, and a region lies where the kernel puts it",
             request->hint);
        return;
    }
    /* Before the shadow is attached, which counts as a use. */
    const char *used = used_before(request);
    void *shadow = NULL;
    if (request->kind == SYSV) {
        shadow = kernel_shmat(request->shmid, NULL, request->flags);
        if (shadow == MAP_FAILED)
            return; /* the original call says why */
    }
    if (settings()->region[0])
        region_take_existing(request, used, shadow, outcome);
    else
        region_take_own(request, used, shadow, outcome);
    if (shadow && !outcome->address)
        kernel_shmdt(shadow);
}
