/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The floor of benchmarks/clients.py: a loop that starts processes of a static program, each of which opens
 * the region's file, maps the window and what is in it, touches it, writes a byte to a pipe and stays.
 * Prints the seconds until all have, then ends them once its standard input ends.
 *
 *   clients_floor FILE COUNT WINDOW MAPPED SPAN STRIDE (all sizes in bytes)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { REPORT_FD = 4 };

static int be_client(char **words)
{
    size_t window_bytes = strtoull(words[3], NULL, 10), mapped_bytes = strtoull(words[4], NULL, 10);
    size_t span_bytes = strtoull(words[5], NULL, 10), stride_bytes = strtoull(words[6], NULL, 10);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int fd = open(words[1], O_RDWR);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *window = mmap(NULL, window_bytes, PROT_NONE, flags, -1, 0);
    if (fd < 0 || window == MAP_FAILED ||
        mmap(window, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return 1;
    for (size_t at = 0; at < span_bytes; at += stride_bytes)
        (void)*(volatile char *)(window + at);
    if (write(REPORT_FD, "", 1) != 1)
        return 1;
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    if (argc == 8)
        return be_client(argv);
    int count = atoi(argv[2]), ends[2], attached = 0;
    char *words[] = {argv[0], argv[1], argv[2], argv[3], argv[4], argv[5], argv[6], "client", NULL};
    pid_t *pids = calloc(count, sizeof *pids);
    posix_spawn_file_actions_t actions;
    struct timespec from, to;
    char bytes[4096];
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (!pids || pipe2(ends, O_CLOEXEC) < 0 || posix_spawn_file_actions_init(&actions) ||
        posix_spawn_file_actions_adddup2(&actions, ends[1], REPORT_FD))
        return 1;
    for (int i = 0; i < count; i++)
        if (posix_spawn(&pids[i], "/proc/self/exe", &actions, NULL, words, environ))
            return 1;
    while (attached < count) {
        ssize_t length = read(ends[0], bytes, sizeof bytes);
        if (length <= 0)
            return 1;
        attached += length;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.6f\n", to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9);
    for (int i = 0; i < count; i++)
        printf("%d ", (int)pids[i]);
    puts("");
    fflush(stdout);
    while (read(STDIN_FILENO, bytes, sizeof bytes) > 0)
        ;
    for (int i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    while (wait(NULL) > 0)
        ;
    return 0;
}
