/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the environment says. It is read at the start, before there are threads, but what is wrong with it
 * is said at the first segment: every program that the command starts has the library as well, and most
 * never map anything large.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload.h"

enum { DEFAULT_THRESHOLD_BYTES = 16 << 20 };

static struct settings known;
static _Atomic int state; /* 0: not read, 1: being read, 2: read */

static void wrong(const char *name, const char *value, const char *needed)
{
    if (!known.wrong[0])
        snprintf(known.wrong, sizeof known.wrong, "%s is \"%.60s\"; it must be %s", name, value, needed);
}

static const char *text(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* A copy: programs that change their title (PostgreSQL) write over the environment. */
static void copy(const char *name, char *to, size_t size)
{
    const char *value = text(name);
    if (value && strlen(value) >= size)
        wrong(name, value, "shorter");
    else
        snprintf(to, size, "%s", value ? value : "");
}

static bool flag(const char *name, bool otherwise)
{
    const char *value = text(name);
    if (!value)
        return otherwise;
    if (strcmp(value, "0") && strcmp(value, "1"))
        wrong(name, value, "0 or 1");
    return !strcmp(value, "1");
}

static size_t bytes(const char *name, size_t otherwise)
{
    const char *value = text(name);
    if (!value)
        return otherwise;
    char *end;
    unsigned long long number = strtoull(value, &end, 10);
    if (*end || *value == '-')
        wrong(name, value, "a number of bytes");
    return number;
}

static int choice(const char *name, const char *const *words, const char *needed)
{
    const char *value = text(name);
    if (!value)
        return 0;
    for (int i = 0; words[i]; i++)
        if (!strcmp(value, words[i]))
            return i;
    wrong(name, value, needed);
    return 0;
}

static void read_environment(void)
{
    static const char *const pages[] = {"4k", "thp", "hugetlb", NULL};
    static const char *const backends[] = {"", "kernel", "simulated", NULL};
    known.pages = choice("MSHARE_PRELOAD_PAGES", pages, "4k, thp or hugetlb");
    known.backend = choice("MSHARE_PRELOAD_BACKEND", backends, "kernel or simulated");
    copy("MSHARE_PRELOAD_ROOT", known.root, sizeof known.root);
    copy("MSHARE_PRELOAD_REGION", known.region, sizeof known.region);
    known.region_bytes = bytes("MSHARE_PRELOAD_REGION_BYTES", 0);
    copy("MSHARE_PRELOAD_HUGE_DIRECTORY", known.huge_directory, sizeof known.huge_directory);
    copy("MSHARE_PRELOAD_FILES", known.files, sizeof known.files);
    known.threshold_bytes = bytes("MSHARE_PRELOAD_THRESHOLD", DEFAULT_THRESHOLD_BYTES);
    known.prefault = flag("MSHARE_PRELOAD_PREFAULT", known.pages != PAGES_HUGETLB);
    known.require = flag("MSHARE_PRELOAD_REQUIRE", false);
    known.verbose = flag("MSHARE_PRELOAD_VERBOSE", false);
    if (known.backend != BACKEND_NONE && !known.root[0])
        wrong("MSHARE_PRELOAD_ROOT", "", "the folder where msharefs is mounted");
    if (known.backend == BACKEND_NONE && (known.pages == PAGES_4K || known.region[0]))
        wrong("MSHARE_PRELOAD_BACKEND", "", "kernel or simulated: pages of 4k and regions need msharefs");
    if (known.backend != BACKEND_NONE && known.pages == PAGES_THP)
        wrong("MSHARE_PRELOAD_PAGES", "thp", "4k or hugetlb in a region");
}

const struct settings *settings(void)
{
    int untouched = 0;
    if (__atomic_compare_exchange_n((int *)&state, &untouched, 1, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        read_environment();
        state = 2;
    }
    while (state != 2)
        ;
    return &known;
}

__attribute__((constructor)) static void read_early(void) { settings(); }
