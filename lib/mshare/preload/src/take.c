/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which way a segment goes, and what happens when that fails: the original call and one line that says
 * why, or, with MSHARE_PRELOAD_REQUIRE=1, a refusal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "preload.h"

static const char *const kind_names[] = {"anonymous shared memory", "a SysV segment",
                                         "POSIX shared memory"};
static const char *const pages_names[] = {"4 KiB pages", "thp", "hugetlb pages"};

void *fail(struct outcome *outcome, int code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(outcome->why, sizeof outcome->why, format, values);
    va_end(values);
    outcome->code = code;
    return NULL;
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
        munmap(outcome->address, request->size);
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
