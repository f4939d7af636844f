/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses and pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <time.h>

#include "preload.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t smaller(size_t size, size_t other) { return size < other ? size : other; }

void *reserve(size_t size, size_t alignment, size_t offset)
{
    size_t whole = round_up(size, PAGE_BYTES) + alignment;
    char *start = kernel_mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    size_t before = (offset - (uintptr_t)start) & (alignment - 1);
    if (before)
        kernel_munmap(start, before);
    if (alignment - before)
        kernel_munmap(start + whole - (alignment - before), alignment - before);
    /* What stays without memory is nothing for a core file. */
    kernel_madvise(start + before, whole - alignment, MADV_DONTDUMP);
    return start + before;
}

/* How much a segment needs only the kernel knows, for its pages may be huge. So the space is let go before,
 * and the kernel refuses what another thread has taken meanwhile. */
void *attach(const struct request *request, size_t alignment)
{
    enum { TRIES = 3, LARGEST_PAGE_BYTES = 1 << 30 };
    if (request->hint)
        return kernel_shmat(request->shmid, request->hint, request->flags);
    void *placed = MAP_FAILED;
    for (int i = 0; i < TRIES && placed == MAP_FAILED; i++) {
        /* Pages of 1 GiB lie at no other address. */
        size_t multiple = i == TRIES - 1 ? LARGEST_PAGE_BYTES : alignment;
        size_t size = round_up(request->size, multiple);
        void *at = reserve(size, multiple, 0);
        if (!at)
            return MAP_FAILED;
        kernel_munmap(at, size);
        placed = kernel_shmat(request->shmid, at, request->flags);
        if (errno != EINVAL)
            return placed;
    }
    return placed;
}

void touch(char *address, size_t size, bool writable)
{
    for (size_t offset = 0; offset < size; offset += PAGE_BYTES)
        if (writable)
            __atomic_fetch_or(address + offset, 0, __ATOMIC_RELAXED);
        else
            __atomic_load_n(address + offset, __ATOMIC_RELAXED);
}

int populate(char *address, size_t size, size_t step, size_t length, bool writable)
{
    int advice = writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
    for (size_t offset = 0; offset < size; offset += step) {
        size_t part = smaller(length, size - offset);
        if (kernel_madvise(address + offset, round_up(part, PAGE_BYTES), advice) == 0)
            continue;
        if (errno != EINVAL)
            return errno;
        touch(address + offset, part, writable); /* Linux before 5.14 */
    }
    return 0;
}

size_t absent_bytes(char *address, size_t size)
{
    unsigned char pages[4096];
    size_t absent = 0, span = sizeof pages * PAGE_BYTES;
    for (size_t offset = 0; offset < size; offset += span) {
        size_t part = round_up(smaller(span, size - offset), PAGE_BYTES);
        if (kernel_mincore(address + offset, part, pages) < 0)
            return absent + size - offset;
        for (size_t i = 0; i < part / PAGE_BYTES; i++)
            absent += pages[i] & 1 ? 0 : PAGE_BYTES;
    }
    return absent;
}

/* Whether a line of maps or smaps begins a mapping, and whether that is the one at an address. */
static bool begins(const char *line, const void *address, bool *is_it)
{
    char *dash, *space;
    unsigned long start = strtoul(line, &dash, 16);
    if (*dash != '-' || (strtoul(dash + 1, &space, 16), *space != ' '))
        return false;
    *is_it = start == (uintptr_t)address;
    return true;
}

struct page_use pages_at(const void *address)
{
    struct page_use pages = {0};
    struct text text;
    char line[256], *end;
    bool inside = false;
    if (!text_open(&text, "/proc/self/smaps"))
        return pages;
    while (text_line(&text, line, sizeof line)) {
        if (begins(line, address, &inside) || !inside)
            continue;
        size_t bytes = strchr(line, ':') ? strtoul(strchr(line, ':') + 1, &end, 10) << 10 : 0;
        if (!strncmp(line, "KernelPageSize:", 15))
            pages.page_bytes = bytes;
        else if (!strncmp(line, "ShmemPmdMapped:", 15) || !strncmp(line, "FilePmdMapped:", 14))
            pages.huge_bytes += bytes;
    }
    text_close(&text);
    return pages;
}

bool is_nameless(const void *address)
{
    static const char deleted[] = " (deleted)";
    struct text text;
    char line[512];
    bool is_it = false, nameless = false;
    if (!text_open(&text, "/proc/self/maps"))
        return false;
    while (!is_it && text_line(&text, line, sizeof line))
        if (begins(line, address, &is_it) && is_it && strlen(line) > sizeof deleted)
            nameless = !strcmp(line + strlen(line) - strlen(deleted), deleted);
    text_close(&text);
    return nameless;
}

double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}
