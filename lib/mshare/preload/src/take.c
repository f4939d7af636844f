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

#include "preload.h"

static const char *const kind_names[] = {"anonymous shared memory", "a SysV segment",
                                         "POSIX shared memory"};

struct attempt {
    const struct request *request;
    const struct way *way;
    struct outcome outcome;
    void *answer;
};

static const struct way *choose(void)
{
    const struct settings *wanted = settings();
    if (wanted->backend != BACKEND_NONE)
        return &region_way;
    return wanted->pages == PAGES_THP ? &thp_way : &hugetlb_way;
}

static void begin(void *argument)
{
    struct attempt *attempt = argument;
    if (settings()->wrong[0])
        fail(&attempt->outcome, ENOMEM, "%s", settings()->wrong);
    else
        attempt->way->place(attempt->request, &attempt->outcome);
}

static void *refuse(const struct request *request, struct outcome *outcome, const char *because)
{
    report("%s of %s: %s; refused, %s", kind_names[request->kind], size_text(request->size).text, outcome->why,
           because);
    if (outcome->address)
        let_go(request, outcome);
    errno = outcome->code;
    return MAP_FAILED;
}

static void report_taken(const struct request *request, const struct way *way, const struct outcome *outcome)
{
    report("%s %s of %s: %s, at %p, prefault %.3f s%s%s", outcome->taken ? "took over" : "placed",
           kind_names[request->kind], size_text(request->size).text, way->name, (void *)outcome->address,
           outcome->prefault_seconds, outcome->note[0] ? ", " : "", outcome->note);
}

static void conclude(void *argument)
{
    struct attempt *attempt = argument;
    const struct request *request = attempt->request;
    struct outcome *outcome = &attempt->outcome;
    if (outcome->address && !outcome->why[0] && attempt->way->check)
        attempt->way->check(request, outcome);
    attempt->answer = outcome->address;
    if (outcome->why[0]) {
        if (outcome->final)
            attempt->answer = refuse(request, outcome,
                                     "because it would not be the memory of the other processes");
        else if (settings()->require)
            attempt->answer = refuse(request, outcome, "because MSHARE_PRELOAD_REQUIRE=1 (--require) is set");
        else
            report("%s of %s: %s; %s", kind_names[request->kind], size_text(request->size).text, outcome->why,
                   outcome->address ? "kept as it is" : "left to the kernel as without the preload");
    } else if (outcome->address && settings()->verbose) {
        report_taken(request, attempt->way, outcome);
    }
}

void *take(const struct request *request)
{
    int before = errno;
    struct attempt attempt = {.request = request, .way = choose(), .outcome = {.code = ENOMEM}};
    guarded(begin, &attempt);
    if (attempt.outcome.fill_bytes && attempt.way->fill) {
        double start = now_seconds();
        attempt.way->fill(request, &attempt.outcome);
        attempt.outcome.prefault_seconds = now_seconds() - start;
    }
    guarded(conclude, &attempt);
    if (attempt.answer != MAP_FAILED)
        errno = before;
    else
        errno = attempt.outcome.code;
    return attempt.answer;
}
