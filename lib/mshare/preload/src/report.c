/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the user is told: one line on stderr, in one write, so that lines of several processes never mix.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

static struct stat at_start;

__attribute__((constructor)) static void remember_stderr(void) { fstat(STDERR_FILENO, &at_start); }

/* A daemon closes stderr, and the next file that it opens may get its number: its data, not our line's. */
static bool is_stderr(void)
{
    struct stat now;
    if (fstat(STDERR_FILENO, &now) < 0)
        return false;
    return !S_ISREG(now.st_mode) || (now.st_dev == at_start.st_dev && now.st_ino == at_start.st_ino) ||
           fcntl(STDERR_FILENO, F_GETFL) & O_APPEND;
}

/* A closed pipe or a full file is the program's, and must not end it because of our line. */
static void write_unharmed(const char *line, size_t length)
{
    sigset_t deadly, before, pending;
    sigemptyset(&deadly);
    sigaddset(&deadly, SIGPIPE);
    sigaddset(&deadly, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &deadly, &before);
    sigpending(&pending);
    if (kernel_write(STDERR_FILENO, line, length) < 0 && !sigismember(&pending, SIGPIPE) &&
        !sigismember(&pending, SIGXFSZ))
        sigtimedwait(&deadly, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void report(const char *format, ...)
{
    char line[1024];
    int start = snprintf(line, sizeof line, "mshare preload[%d]: ", (int)getpid());
    va_list values;
    va_start(values, format);
    int length = start + vsnprintf(line + start, sizeof line - start - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length] = '\n';
    if (is_stderr())
        write_unharmed(line, length + 1);
}

struct size_text size_text(size_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    struct size_text size;
    double value = bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    snprintf(size.text, sizeof size.text, value == (size_t)value ? "%.0f %s" : "%.1f %s", value,
             units[unit]);
    return size;
}
