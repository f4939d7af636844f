/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The regions of this process: a table of them, and what is the same for those it makes (own.c) and those
 * that exist (existing.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "preload.h"

struct region regions[REGIONS];

struct store *region_store(void)
{
    return settings()->backend == BACKEND_KERNEL ? &kernel_store : &simulated_store;
}

struct region *region_new(enum kind kind, struct outcome *outcome)
{
    for (int i = 0; i < REGIONS; i++)
        if (!regions[i].taken) {
            regions[i] = (struct region){.taken = true, .kind = kind};
            return &regions[i];
        }
    return fail(outcome, ENOMEM, "this process has %d regions already, which is the maximum", REGIONS);
}

static size_t hold_bytes(const struct region *region)
{
    return region_store()->holds_window ? region->window_bytes : PAGE_BYTES;
}

/* A page, or where only a window can be mapped, a second one. */
bool region_hold(struct region *region, int fd)
{
    if (region->hold)
        return true;
    void *hold = kernel_mmap(NULL, hold_bytes(region), PROT_NONE, MAP_SHARED, fd, 0);
    region->hold = hold == MAP_FAILED ? NULL : hold;
    /* As with the window itself: a core file must not read it. */
    if (region->hold)
        kernel_madvise(region->hold, hold_bytes(region), MADV_DONTDUMP);
    return region->hold;
}

/* Before the window goes, and with it what keeps the file open. */
static bool hold_by_name(struct region *region)
{
    struct outcome ignored = {0};
    int fd = region->hold ? -1 : region_store()->open(region, &ignored);
    if (fd >= 0) {
        region_hold(region, fd);
        close(fd);
    }
    return region->hold;
}

int region_attach(struct region *region, int fd, int prot, struct outcome *outcome)
{
    return region->address ? 0 : region_store()->attach(region, fd, prot, outcome);
}

void region_drop(struct region *region)
{
    if (region->address)
        kernel_munmap(region->address, region->window_bytes);
    if (region->maker == getpid())
        region_store()->unlink(region->name);
    if (region->hold)
        kernel_munmap(region->hold, hold_bytes(region));
    if (region->object_hold)
        kernel_munmap(region->object_hold, PAGE_BYTES);
    region->taken = false;
}

void region_drop_unused(struct region *region)
{
    if (!region->segments)
        region_drop(region);
}

static bool segment_is_gone(int shmid)
{
    struct shmid_ds segment;
    return kernel_shmctl(shmid, IPC_STAT, &segment) < 0 && errno != EACCES;
}

/* Whether nobody can ask again for the memory that a region is. */
static bool outlived(const struct region *region)
{
    for (int i = 0; i < region->id_count; i++)
        if (!segment_is_gone(region->ids[i]))
            return false;
    if (region->kind == SYSV)
        return segment_is_gone(region->shmid);
    return region->kind != POSIX || !region->object_hold || is_nameless(region->object_hold);
}

void region_sweep(void)
{
    int before = errno;
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && !regions[i].segments && outlived(&regions[i]))
            region_drop(&regions[i]);
    errno = before;
}

/* Nobody but this process is attached to it any more, and nobody will be. */
static bool ends_with_us(const struct region *region)
{
    struct shmid_ds segment;
    if (region->kind == SYSV && kernel_shmctl(region->shmid, IPC_STAT, &segment) == 0)
        return segment.shm_perm.mode & SHM_DEST && (int)segment.shm_nattch <= region->segments;
    return outlived(region);
}

/* What others may still ask for keeps its name: it is removed by the next program when nobody has it. */
static void take_names_away(void *ignored)
{
    (void)ignored;
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && regions[i].maker == getpid() && ends_with_us(&regions[i]))
            region_store()->unlink(regions[i].name);
}

__attribute__((destructor)) static void at_exit(void)
{
    if (settings()->backend != BACKEND_NONE)
        guarded(take_names_away, NULL);
}

int region_release(struct segment *segment)
{
    struct region *region = segment->region;
    if (segment->shadow && kernel_shmdt(segment->shadow) < 0)
        return -1;
    segment->address = NULL;
    if (--region->segments)
        return 0;
    /* What other processes may still ask for stays as long as its maker lives. */
    bool ours = region->maker == getpid() || region->placer == getpid();
    if (!ours || outlived(region) || !hold_by_name(region)) {
        region_drop(region);
        return 0;
    }
    int result = kernel_munmap(region->address, region->window_bytes);
    region->address = NULL;
    return result;
}

static bool overlaps(const char *start, size_t size, const char *from, const char *to)
{
    return start && start < to && start + size > from;
}

bool region_overlaps(const void *address, size_t size)
{
    const char *from = address, *to = from + round_up(size, PAGE_BYTES);
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && overlaps(regions[i].address, regions[i].window_bytes, from, to))
            return true;
    return false;
}

/* The first window that ends behind an address. */
static struct region *window_from(const char *from)
{
    struct region *first = NULL;
    for (int i = 0; i < REGIONS; i++) {
        struct region *region = &regions[i];
        if (region->taken && region->address && region->address + region->window_bytes > from &&
            (!first || region->address < first->address))
            first = region;
    }
    return first;
}

/* Of a range, what lies between windows. */
static int unmap_between(char *from, char *to)
{
    while (from < to) {
        struct region *window = window_from(from);
        char *stop = window && window->address < to ? window->address : to;
        if (stop > from && kernel_munmap(from, stop - from) < 0)
            return -1;
        from = stop == to ? to : stop + window->window_bytes;
    }
    return 0;
}

static size_t whole(const struct segment *segment) { return round_up(segment->size, PAGE_BYTES); }

/* A window goes as a whole only, and the simulated one must not do what a kernel's cannot. */
int region_unmap(void *address, size_t size)
{
    char *from = address, *to = from + round_up(size, PAGE_BYTES);
    for (int i = 0; i < SEGMENTS; i++) {
        struct segment *segment = &segments[i];
        if (overlaps(segment->address, whole(segment), from, to) &&
            (segment->address < from || segment->address + whole(segment) > to)) {
            errno = EINVAL;
            return -1;
        }
    }
    int result = unmap_between(from, to);
    for (int i = 0; i < SEGMENTS; i++)
        if (overlaps(segments[i].address, segments[i].size, from, to) && region_release(&segments[i]) < 0)
            result = -1;
    return result;
}

struct range {
    void *address;
    size_t size;
    int result;
};

static void unmap_step(void *argument)
{
    struct range *range = argument;
    range->result = region_unmap(range->address, range->size);
}

int region_unmap_guarded(void *address, size_t size)
{
    struct range range = {address, size, 0};
    guarded(unmap_step, &range);
    return range.result;
}

void let_go(const struct request *request, struct outcome *outcome)
{
    struct segment *segment = segment_at(outcome->address);
    size_t size = outcome->mapped_bytes ? outcome->mapped_bytes : request->size;
    if (segment)
        region_release(segment);
    else if (request->kind == SYSV)
        kernel_shmdt(outcome->address);
    else
        kernel_munmap(outcome->address, round_up(size, PAGE_BYTES));
    outcome->address = NULL;
}

/* The flags of mmap that choose the pages of a mapping inside the region. */
int region_page_flags(const struct request *request)
{
    int asked = request->kind == SYSV ? 0 : request->flags & (MAP_NORESERVE | HUGE_FLAGS);
    return settings()->pages == PAGES_HUGETLB ? asked | MAP_HUGETLB : asked;
}

void region_hand_over(const struct request *request, struct region *region, size_t offset, void *shadow,
                      struct outcome *outcome)
{
    outcome->address = region->address + offset;
    outcome->taken = true;
    outcome->final = false;
    snprintf(outcome->note, sizeof outcome->note, "in region %.120s", region->name);
    region->segments++;
    segment_add(outcome->address, request->size, region, shadow);
}
