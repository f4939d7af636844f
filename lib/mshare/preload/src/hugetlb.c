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

struct pool {
    size_t page_bytes, free, reserved;
};

static struct pool read_pool(void)
{
    struct pool pool = {HUGE_PAGE_BYTES, 0, 0};
    FILE *meminfo = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long value;
    while (meminfo && fgets(line, sizeof line, meminfo)) {
        if (sscanf(line, "HugePages_Free: %lu", &value) == 1)
            pool.free = value;
        else if (sscanf(line, "HugePages_Rsvd: %lu", &value) == 1)
            pool.reserved = value;
        else if (sscanf(line, "Hugepagesize: %lu", &value) == 1)
            pool.page_bytes = value << 10;
    }
    if (meminfo)
        fclose(meminfo);
    return pool;
}

static void say_pool(size_t size, int error, struct outcome *outcome)
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
             size_text(pool.page_bytes).text, free, strerror(error),
             needed > free ? needed - free : needed);
}

/* A program may ask for another page size than the host's default (MAP_HUGE_1GB). */
static size_t page_bytes(const struct request *request)
{
    int code = request->kind == ANONYMOUS ? request->flags >> 26 & 0x3f : 0;
    return code ? 1UL << code : read_pool().page_bytes;
}

static void fill(const struct request *request, char *at, size_t size, struct outcome *outcome)
{
    outcome->address = at;
    if (!settings()->prefault)
        return;
    double start = now_seconds();
    touch(at, size, page_bytes(request), request->prot & PROT_WRITE);
    outcome->prefault_seconds = now_seconds() - start;
}

static void take_anonymous(const struct request *request, struct outcome *outcome)
{
    size_t size = round_up(request->size, page_bytes(request));
    char *at = reserve(size, TABLE_SPAN_BYTES, 0);
    if (!at) {
        fail(outcome, ENOMEM, "no address space for it (%s); raise RLIMIT_AS (ulimit -v)", strerror(errno));
        return;
    }
    if (place(request, at, size, MAP_HUGETLB, -1) == MAP_FAILED) {
        say_pool(size, errno, outcome);
        kernel_munmap(at, size);
        return;
    }
    segment_add(at, request->size, size, NULL, NULL);
    fill(request, at, size, outcome);
}

static void take_sysv(const struct request *request, struct outcome *outcome)
{
    size_t size = round_up(request->size, page_bytes(request));
    char *at = request->hint ? (char *)request->hint : reserve(size, TABLE_SPAN_BYTES, 0);
    char *placed = !at             ? MAP_FAILED
                   : request->hint ? kernel_shmat(request->shmid, at, request->flags)
                                   : place(request, at, size, 0, -1);
    if (placed == MAP_FAILED) {
        fail(outcome, errno, "it cannot be attached at an address of 1 GiB (%s)", strerror(errno));
        if (at && !request->hint)
            kernel_munmap(at, size);
        return;
    }
    /* What was reserved behind a segment of small pages; behind one of huge pages there is nothing. */
    size_t mapped = round_up(request->size, PAGE_BYTES);
    if (!request->hint && size > mapped)
        kernel_munmap(at + mapped, size - mapped);
    fill(request, placed, request->size, outcome);
}

void hugetlb_take(const struct request *request, struct outcome *outcome)
{
    if (request->kind == ANONYMOUS)
        take_anonymous(request, outcome);
    else if (request->kind == SYSV)
        take_sysv(request, outcome);
    else
        fail(outcome, ENOMEM,
             "it is a file on /dev/shm, which the host's pool of huge pages cannot hold; use"
             " pages thp");
}

/* The pages of a SysV segment are chosen when it is made. */
int hugetlb_shmget(int key, size_t size, int flags)
{
    int before = errno;
    int id = kernel_shmget(key, size, flags | SHM_HUGETLB);
    if (id >= 0)
        return id;
    int error = errno;
    if (error != ENOMEM && error != EPERM)
        return kernel_shmget(key, size, flags);
    struct outcome outcome = {0};
    say_pool(size, error, &outcome);
    if (settings()->require) {
        say("a SysV segment of %s: %s; refused, as MSHARE_PRELOAD_REQUIRE=1 (--require) asks",
            size_text(size).text, outcome.why);
        errno = error;
        return -1;
    }
    errno = before;
    id = kernel_shmget(key, size, flags);
    if (id >= 0)
        say("a SysV segment of %s: %s; left to the kernel as without the preload", size_text(size).text,
            outcome.why);
    return id;
}
