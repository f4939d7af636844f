/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * With MSHARE_PRELOAD_REGION segments go one behind the other into a region that exists.
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

enum { PATIENCE_MILLISECONDS = 3000, STEP_MILLISECONDS = 50 };

/* A lock that children inherit. Of a server that is restarted, the old process may be on its last steps. */
static bool lock_whole(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    for (int waited = 0; waited <= PATIENCE_MILLISECONDS; waited += STEP_MILLISECONDS) {
        if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
            return true;
        usleep(STEP_MILLISECONDS * 1000);
    }
    return false;
}

/* The region that MSHARE_PRELOAD_REGION names, locked for this process and the children it will have. */
static struct region *open_existing(const struct request *request, struct outcome *outcome)
{
    struct region *region = region_new(request);
    if (!region)
        return fail(outcome, ENOMEM, "this process has %d regions already, the most there can be", REGIONS);
    region->kind = ANONYMOUS;
    snprintf(region->name, NAME_BYTES, "%s", settings()->region);
    if (region_store()->open(region, outcome) < 0) {
        ;
    } else if (!lock_whole(region->fd)) {
        fail(outcome, ENOMEM,
             "region %s is in use by another process, or by a child of an earlier one; stop it"
             " first",
             region->name);
    } else if (region_store()->clear(region, outcome) == 0 &&
               region_store()->attach(region, PROT_READ | PROT_WRITE, outcome) == 0) {
        region->placer = getpid();
        return region;
    }
    region_drop(region);
    return NULL;
}

void region_take_existing(const struct request *request, const char *used, void *shadow,
                          struct outcome *outcome)
{
    if (request->kind == POSIX) {
        fail(outcome, ENOMEM,
             "other processes find it by its name, and it cannot be found in an existing region;"
             " omit --region");
        return;
    }
    if (used) {
        fail(outcome, ENOMEM, "%s", used);
        return;
    }
    struct region *existing = NULL;
    for (int i = 0; !existing && i < REGIONS; i++)
        if (regions[i].taken && regions[i].placer)
            existing = &regions[i];
    if (!existing && !(existing = open_existing(request, outcome)))
        return;
    if (existing->placer != getpid()) {
        fail(outcome, ENOMEM, "region %s is filled by process %d, of which this is a child", existing->name,
             (int)existing->placer);
        return;
    }
    size_t offset = existing->used_bytes, size = round_up(request->size, HUGE_PAGE_BYTES);
    if (size > existing->mapped_bytes - offset)
        fail(outcome, ENOMEM, "%s are left of the %s in region %s; make it larger",
             size_text(existing->mapped_bytes - offset).text, size_text(existing->mapped_bytes).text,
             existing->name);
    else if (region_store()->renew(existing, offset, size, region_page_flags(request), outcome) == 0) {
        existing->used_bytes = offset + size;
        if (settings()->prefault)
            region_prefault(existing->address + offset, request->size, outcome);
        region_hand_over(request, existing, offset, shadow, outcome);
    }
    if (!existing->segments)
        region_drop(existing);
}
