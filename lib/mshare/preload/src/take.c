/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which way a segment goes, and what happens when that fails: the original call and one line that says
 * why, or, with MSHARE_PRELOAD_REQUIRE=1, a refusal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "preload.h"

static const char *const kind_names[] = {"anonymous shared memory", "a SysV segment",
                                         "POSIX shared memory"};
static const char *const pages_names[] = {"4 KiB pages", "thp", "hugetlb pages"};

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

static void region_take(const struct request *request, struct outcome *outcome)
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

static void choose(const struct request *request, struct outcome *outcome)
{
    const struct settings *wanted = settings();
    if (wanted->wrong[0])
        fail(outcome, ENOMEM, "%s", wanted->wrong);
    else if (wanted->backend != BACKEND_NONE)
        region_take(request, outcome);
    else if (wanted->pages == PAGES_THP)
        thp_take(request, outcome);
    else
        hugetlb_take(request, outcome);
}

static void *refuse(const struct request *request, struct outcome *outcome, const char *because)
{
    say("%s of %s: %s; refused, %s", kind_names[request->kind], size_text(request->size).text, outcome->why,
        because);
    if (outcome->address && request->kind == SYSV)
        kernel_shmdt(outcome->address);
    else if (outcome->address)
        unmap(outcome->address, request->size);
    errno = outcome->code;
    return MAP_FAILED;
}

void *take(const struct request *request)
{
    int before = errno;
    struct outcome outcome = {.code = ENOMEM};
    choose(request, &outcome);
    if (outcome.why[0]) {
        if (outcome.final)
            return refuse(request, &outcome, "for other memory than the others' would be wrong");
        if (settings()->require)
            return refuse(request, &outcome, "as MSHARE_PRELOAD_REQUIRE=1 (--require) asks");
        say("%s of %s: %s; %s", kind_names[request->kind], size_text(request->size).text, outcome.why,
            outcome.address ? "kept as it is" : "left to the kernel as without the preload");
    } else if (outcome.address && settings()->verbose) {
        say("took over %s of %s: %s, at %p, prefault %.3f s%s%s", kind_names[request->kind],
            size_text(request->size).text, pages_names[settings()->pages], outcome.address,
            outcome.prefault_seconds, outcome.note[0] ? ", " : "", outcome.note);
    }
    errno = before;
    return outcome.address;
}
