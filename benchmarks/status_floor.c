/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The floor of benchmarks/survey.py: VmPTE of every process, and nothing else.
 * Prints seconds, processes, and the sum in KiB.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

int main(void)
{
    static char text[16384];
    char path[300];
    long processes = 0, kib = 0;
    double started = now();
    DIR *proc = opendir("/proc");
    if (!proc)
        return 1;
    for (struct dirent *entry; (entry = readdir(proc));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "%s/status", entry->d_name);
        int file = openat(dirfd(proc), path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        if (length <= 0)
            continue;
        text[length] = 0;
        const char *field = strstr(text, "\nVmPTE:");
        kib += field ? atol(field + 7) : 0;
        processes++;
    }
    closedir(proc);
    printf("%.6f %ld %ld\n", now() - started, processes, kib);
    return 0;
}
