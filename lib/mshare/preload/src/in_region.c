/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The way into a region.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload.h"

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

static void take_locked(const struct request *request, struct outcome *outcome)
{
    /* Before the shadow is attached, which counts as a use. */
    const char *used = used_before(request);
    void *shadow = NULL;
    if (request->kind == SYSV) {
        shadow = kernel_shmat(request->shmid, NULL, request->flags & SHM_RDONLY);
        if (shadow == MAP_FAILED)
            return; /* the original call says why */
    }
    if (settings()->region[0]) {
        region_take_existing(request, used, shadow, outcome);
    } else if (shadow && region_is_marked(shadow)) {
        outcome->final = true;
        fail(outcome, ENOMEM, "its memory is in a region; name that with --region");
    } else {
        region_take_own(request, used, shadow, outcome);
    }
    if (shadow && !outcome->address)
        kernel_shmdt(shadow);
}

static bool is_marked(const struct request *request)
{
    void *shadow = request->kind == SYSV ? kernel_shmat(request->shmid, NULL, SHM_RDONLY) : MAP_FAILED;
    bool marked = shadow != MAP_FAILED && region_is_marked(shadow);
    if (shadow != MAP_FAILED)
        kernel_shmdt(shadow);
    return marked;
}

static bool try(const struct request *request, struct outcome *outcome)
{
    int root = open_file(settings()->root, O_RDONLY | O_DIRECTORY);
    if (root < 0) {
        fail(outcome, ENOMEM,
             "%s cannot be opened (%s); mount it with `mshare mount`, and let this user in",
             settings()->root, reason(errno));
        return false;
    }
    bool locked = lock_or_fail(root, settings()->root, outcome);
    if (locked)
        take_locked(request, outcome);
    unlock_and_close(root);
    return locked;
}

static void place(const struct request *request, struct outcome *outcome)
{
    if (store_prepare(region_store(), outcome) < 0)
        return;
    region_sweep();
    if (!segment_left(outcome) || !try(request, outcome))
        outcome->final = region_has_own(request) || is_marked(request);
    if (outcome->final && !outcome->why[0])
        fail(outcome, ENOMEM, "it is in a region, and cannot be attached there (%s)", reason(errno));
}

/* By touching, as MADV_POPULATE_WRITE fails in a window. */
static void fill(const struct request *request, struct outcome *outcome)
{
    (void)request;
    touch(outcome->address, outcome->fill_bytes, true);
}

const struct way region_way = {"4 KiB pages", place, fill, NULL};
