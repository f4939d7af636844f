/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * With MSHARE_PRELOAD_REGION segments go one behind the other into a region that exists.
 *
 * A SysV segment says itself that it is in a region: its own memory, which nobody uses any more, begins
 * with a marker. Processes that attach it by its id read that, and join.
 *
 * Who places segments, and the children forked from it, hold byte 0 of the region's file locked. Everybody
 * who has one of its segments holds the byte that is the placer's generation: as long as somebody does, no
 * other placer empties the region.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum { PATIENCE_MILLISECONDS = 3000, STEP_MILLISECONDS = 50, FIRST_GENERATION = 1 << 20 };

static const char magic[] = "in an mshare region, see mshare run\n";

struct marker {
    char magic[sizeof magic];
    dev_t device;
    ino_t inode;
    off_t generation;
    size_t offset;
};

static int lock_bytes(int fd, short type, off_t start, off_t length)
{
    struct flock bytes = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_OFD_SETLK, &bytes);
}

/* Of a server that is restarted, the old process may be on its last steps. */
static bool lock_whole(int fd)
{
    for (int waited = 0; waited <= PATIENCE_MILLISECONDS; waited += STEP_MILLISECONDS) {
        if (lock_bytes(fd, F_WRLCK, 0, 0) == 0)
            return true;
        usleep(STEP_MILLISECONDS * 1000);
    }
    return false;
}

/* From the lock of all bytes to those of a placer. */
static off_t begin_generation(int fd)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    off_t generation = FIRST_GENERATION + (off_t)now.tv_sec * 1000000000 + now.tv_nsec;
    lock_bytes(fd, F_RDLCK, generation, 1);
    lock_bytes(fd, F_UNLCK, 1, generation - 1);
    lock_bytes(fd, F_UNLCK, generation + 1, 0);
    return generation;
}

static bool generation_lives(int fd, off_t generation)
{
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = generation, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &byte) < 0 || byte.l_type != F_UNLCK;
}

bool region_is_marked(const void *shadow) { return !memcmp(shadow, magic, sizeof magic); }

static void mark(const struct region *region, size_t offset, void *shadow)
{
    struct marker marker = {.device = region->device,
                            .inode = region->inode,
                            .generation = region->generation,
                            .offset = offset};
    memcpy(marker.magic, magic, sizeof magic);
    memcpy(shadow, &marker, sizeof marker);
}

static struct region *new_region(struct outcome *outcome)
{
    struct region *region = region_new(ANONYMOUS, outcome);
    if (region)
        snprintf(region->name, NAME_BYTES, "%s", settings()->region);
    return region;
}

/* The region that MSHARE_PRELOAD_REGION names, locked for this process and the children it will have. */
static struct region *open_existing(struct outcome *outcome)
{
    struct region *region = new_region(outcome);
    if (!region)
        return NULL;
    int fd = region_store()->open(region, outcome);
    if (fd >= 0 && !lock_whole(fd))
        fail(outcome, ENOMEM,
             "region %s is in use by another process, or by a child of an earlier one; stop it"
             " first",
             region->name);
    else if (fd >= 0 && region_store()->clear(region, fd, outcome) == 0 &&
             region_attach(region, fd, PROT_READ | PROT_WRITE, outcome) == 0) {
        /* The locks are those of this descriptor's file, and stay when the window goes for a while. */
        region_hold(region, fd);
        region->generation = begin_generation(fd);
        region->placer = getpid();
    }
    if (fd >= 0)
        close(fd);
    if (region->placer)
        return region;
    region_drop(region);
    return NULL;
}

static struct region *placed(void)
{
    for (int i = 0; i < REGIONS; i++)
        if (regions[i].taken && regions[i].placer)
            return &regions[i];
    return NULL;
}

static void put(const struct request *request, struct region *region, int fd, void *shadow,
                struct outcome *outcome)
{
    size_t offset = region->used_bytes, size = round_up(request->size, HUGE_PAGE_BYTES);
    if (size > region->mapped_bytes - offset) {
        fail(outcome, ENOMEM, "%s are left of the %s in region %s; make it larger",
             size_text(region->mapped_bytes - offset).text, size_text(region->mapped_bytes).text,
             region->name);
        return;
    }
    if (request->kind == SYSV && region->id_count == SEGMENTS) {
        fail(outcome, ENOMEM, "%d SysV segments are in region %s, which is the maximum", SEGMENTS,
             region->name);
        return;
    }
    if (region_attach(region, fd, PROT_READ | PROT_WRITE, outcome) < 0 ||
        region_store()->renew(region, fd, offset, size, region_page_flags(request), outcome) < 0)
        return;
    region->used_bytes = offset + size;
    if (shadow) {
        mark(region, offset, shadow);
        region->ids[region->id_count++] = request->shmid;
    }
    if (settings()->prefault)
        outcome->fill_bytes = request->size;
    region_hand_over(request, region, offset, shadow, outcome);
}

/* A segment that nobody has used yet. */
static void put_into(const struct request *request, void *shadow, struct outcome *outcome)
{
    struct region *region = placed();
    if (!region && !(region = open_existing(outcome)))
        return;
    if (region->placer != getpid()) {
        fail(outcome, ENOMEM, "region %s is filled by process %d, of which this is a child", region->name,
             (int)region->placer);
        return;
    }
    int fd = region_store()->open(region, outcome);
    if (fd < 0)
        return;
    put(request, region, fd, shadow, outcome);
    close(fd);
    if (!region->id_count)
        region_drop_unused(region);
}

/* A segment that lies in the region: a window of its own for this process, and what is in it. */
static void join(const struct request *request, void *shadow, struct outcome *outcome)
{
    struct marker marker;
    memcpy(&marker, shadow, sizeof marker);
    outcome->final = true;
    struct region *region = new_region(outcome);
    if (!region)
        return;
    region->device = marker.device;
    region->inode = marker.inode;
    region->generation = marker.generation;
    int fd = region_store()->open(region, outcome);
    if (fd < 0) {
        ;
    } else if (!generation_lives(fd, marker.generation)) {
        /* No process has it any more: it starts again as ordinary memory of the kernel. */
        if (request->prot & PROT_WRITE)
            memset(shadow, 0, sizeof marker);
        outcome->final = false;
        fail(outcome, ENOMEM, "it was in region %s, whose content has ended", region->name);
    } else if (request->hint || request->special) {
        fail(outcome, ENOMEM,
             "it is in region %s, which cannot be mapped at an address or in a way that the program fixes",
             region->name);
    } else if (!(request->prot & PROT_WRITE) && !region_store()->protects) {
        fail(outcome, EACCES, "it is in region %s, where the kernel cannot protect it from this program",
             region->name);
    } else if (marker.offset % PAGE_BYTES || marker.offset > region->mapped_bytes ||
               request->size > region->mapped_bytes - marker.offset) {
        fail(outcome, ENOMEM, "it would lie beyond the end of region %s", region->name);
    } else if (lock_bytes(fd, F_RDLCK, marker.generation, 1) == 0 &&
               region_attach(region, fd, request->prot, outcome) == 0) {
        region_hand_over(request, region, marker.offset, shadow, outcome);
    }
    if (fd >= 0)
        close(fd);
    region_drop_unused(region);
}

void region_take_existing(const struct request *request, const char *used, void *shadow,
                          struct outcome *outcome)
{
    if (request->kind == POSIX) {
        if (!request->special && !request->small)
            fail(outcome, ENOMEM,
                 "other processes find it by its name, and it cannot be found in an existing region;"
                 " omit --region");
        return;
    }
    if (shadow && region_is_marked(shadow))
        join(request, shadow, outcome);
    else if (used)
        fail(outcome, ENOMEM, "%s", used);
    else if (request->hint)
        fail(outcome, ENOMEM, "the program wants it at %p, and a region lies where the kernel puts it",
             request->hint);
    else if (shadow && !(request->prot & PROT_WRITE))
        fail(outcome, ENOMEM, "it may only be read, and a region can be written");
    else if (!request->special)
        put_into(request, shadow, outcome);
}
