/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * hugetlb: pages from the host's pool on a stock kernel, at an address of 1 GiB, where processes share
 * even the tables above them (PMD tables, for each whole 1 GiB).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "preload.h"

enum { TABLE_SPAN_BYTES = 1 << 30 };

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#define MAP_HUGE_MASK 0x3f
#endif

struct pool {
    size_t page_bytes, free, reserved;
};

static struct pool read_pool(void)
{
    static const char meminfo[] = "/proc/meminfo";
    struct pool pool = {HUGE_PAGE_BYTES >> 10, 0, 0};
    text_number(meminfo, "HugePages_Free:", &pool.free);
    text_number(meminfo, "HugePages_Rsvd:", &pool.reserved);
    text_number(meminfo, "Hugepagesize:", &pool.page_bytes);
    pool.page_bytes <<= 10;
    return pool;
}

static void report_pool(size_t size, int error, struct outcome *outcome)
{
    struct pool pool = read_pool();
    size_t needed = round_up(size, pool.page_bytes) / pool.page_bytes;
    size_t free = pool.free > pool.reserved ? pool.free - pool.reserved : 0;
    if (error == EPERM)
        fail(outcome, error,
             "the kernel allows this user no huge pages for SysV segments; put its group into"
             " /proc/sys/vm/hugetlb_shm_group");
    else
        fail(outcome, error,
             "it needs %zu huge pages of %s and %zu are free (%s); raise vm.nr_hugepages by %zu", needed,
             size_text(pool.page_bytes).text, free, reason(error), needed > free ? needed - free : needed);
}

/* Whole huge pages, and ordinary memory for the rest behind them: so the kernel unmaps the segment by the
 * size that the program knows. A program that asks for huge pages itself knows their size. */
static void take_anonymous(const struct request *request, struct outcome *outcome)
{
    bool asked = request->flags & MAP_HUGETLB;
    int code = request->flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
    size_t page = asked && code ? 1UL << code : read_pool().page_bytes;
    size_t all = round_up(request->size, asked ? page : PAGE_BYTES), huge = all / page * page;
    if (!huge) {
        fail(outcome, ENOMEM, "it is smaller than a huge page of %s", size_text(page).text);
        return;
    }
    if (!huge_page_room(huge, outcome))
        return;
    char *at = reserve(all, TABLE_SPAN_BYTES, 0);
    if (!at) {
        fail(outcome, ENOMEM, "no address space for it (%s); raise RLIMIT_AS (ulimit -v)", reason(errno));
        return;
    }
    int flags = request->flags | MAP_FIXED;
    if (kernel_mmap(at, huge, request->prot, flags | MAP_HUGETLB, -1, 0) == MAP_FAILED)
        report_pool(huge, errno, outcome);
    else if (all > huge && kernel_mmap(at + huge, all - huge, request->prot, flags, -1, 0) == MAP_FAILED)
        fail(outcome, errno, "%s behind its huge pages cannot be mapped (%s)", size_text(all - huge).text,
             reason(errno));
    if (outcome->why[0]) {
        kernel_munmap(at, all);
        return;
    }
    outcome->address = at;
    outcome->mapped_bytes = all;
}

static void place(const struct request *request, struct outcome *outcome)
{
    if (request->kind == ANONYMOUS) {
        take_anonymous(request, outcome);
    } else if (request->kind == SYSV) {
        void *placed = attach(request, TABLE_SPAN_BYTES);
        if (placed == MAP_FAILED)
            fail(outcome, errno, "it cannot be attached at an address of 1 GiB (%s)", reason(errno));
        else
            outcome->address = placed;
    } else {
        fail(outcome, ENOMEM,
             "it is a file on /dev/shm, which the host's pool of huge pages cannot hold; use"
             " pages thp");
    }
    if (outcome->address && settings()->prefault)
        outcome->fill_bytes = request->size;
}

static void fill(const struct request *request, struct outcome *outcome)
{
    outcome->fill_error =
        populate(outcome->address, request->size, CHUNK_BYTES, CHUNK_BYTES, request->prot & PROT_WRITE);
}

static void check(const struct request *request, struct outcome *outcome)
{
    outcome->taken = request->kind == ANONYMOUS || pages_at(outcome->address).page_bytes > PAGE_BYTES;
    if (!outcome->taken)
        fail(outcome, ENOMEM, "its pages are small, because it was created without SHM_HUGETLB");
    else if (outcome->fill_error && request->kind == ANONYMOUS) {
        /* A touch would end the program. Nobody else knows of this memory: the kernel's can take its place. */
        let_go(request, outcome);
    }
    if (outcome->fill_error)
        fail(outcome, ENOMEM,
             "not all of its huge pages are available (%s); see hugetlb in its cgroup, and the"
             " memory nodes that it may use",
             reason(outcome->fill_error));
}

const struct way hugetlb_way = {"hugetlb pages", place, fill, check};

struct making {
    int key, flags, id;
    size_t size;
};

/* The pages of a SysV segment are chosen when it is made. */
static void make(void *argument)
{
    struct making *making = argument;
    int before = errno;
    making->id = kernel_shmget(making->key, making->size, making->flags | SHM_HUGETLB);
    int error = errno;
    if (making->id >= 0 || (error != ENOMEM && error != EPERM)) {
        /* The kernel has the last word about what is wrong with the request. */
        if (making->id < 0)
            making->id = kernel_shmget(making->key, making->size, making->flags);
        return;
    }
    struct outcome outcome = {0};
    report_pool(making->size, error, &outcome);
    if (settings()->require) {
        report("a SysV segment of %s: %s; refused, because MSHARE_PRELOAD_REQUIRE=1 (--require) is set",
               size_text(making->size).text, outcome.why);
        errno = error;
        return;
    }
    errno = before;
    making->id = kernel_shmget(making->key, making->size, making->flags);
    if (making->id >= 0)
        report("a SysV segment of %s: %s; left to the kernel as without the preload",
               size_text(making->size).text, outcome.why);
}

int hugetlb_shmget(int key, size_t size, int flags)
{
    struct making making = {.key = key, .flags = flags, .size = size};
    guarded(make, &making);
    return making.id;
}
