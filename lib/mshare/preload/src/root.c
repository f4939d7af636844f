/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What both stores have in common: the root, its alignment, being asked once, and a region's file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

enum { PATIENCE_MILLISECONDS = 3000, STEP_MILLISECONDS = 20, HIGH_NUMBER = 512 };

struct path root_path(const char *name)
{
    struct path path;
    snprintf(path.text, sizeof path.text, "%s/%s", settings()->root, name);
    return path;
}

/* At a number that no program expects to be its own. */
static int moved_up(int fd)
{
    if (fd < 0)
        return -1;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_NUMBER);
    if (high < 0)
        high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return high;
}

/* A FIFO or a link in place of the file is somebody's trap. */
enum { SAFELY = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

int open_file(const char *path, int flags) { return moved_up(open(path, flags | SAFELY, 0600)); }

int open_below_root(const char *name, int flags)
{
    /* Part by part: in a directory that others may write to, a link can come to stand for any of them. */
    int above = open(settings()->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const char *end;
    while (above >= 0 && (end = strchr(name, '/'))) {
        struct path part;
        snprintf(part.text, sizeof part.text, "%.*s", (int)(end - name), name);
        bool dots = !strcmp(part.text, "..") || !strcmp(part.text, ".") || !*part.text;
        int below = dots ? -1 : openat(above, part.text, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int code = dots ? EINVAL : errno;
        close(above);
        errno = code;
        above = below;
        name = end + 1;
    }
    if (above < 0)
        return -1;
    int fd = openat(above, name, flags | SAFELY), code = errno;
    close(above);
    errno = code;
    return moved_up(fd);
}

/* flock, but not for ever: somebody may hold it who means no good. */
static bool lock_file(int fd, int operation)
{
    for (int waited = 0;; waited += STEP_MILLISECONDS) {
        if (flock(fd, operation | LOCK_NB) == 0)
            return true;
        if (errno != EWOULDBLOCK || waited >= PATIENCE_MILLISECONDS)
            return false;
        usleep(STEP_MILLISECONDS * 1000);
    }
}

/* The process that /proc/locks names for a file; 0: none that this process may see. */
static int holder(int fd)
{
    struct stat file;
    struct text text;
    char line[256], wanted[32];
    int pid = 0;
    if (fstat(fd, &file) < 0 || !text_open(&text, "/proc/locks"))
        return 0;
    snprintf(wanted, sizeof wanted, ":%llu ", (unsigned long long)file.st_ino);
    while (!pid && text_line(&text, line, sizeof line)) {
        char *write = strstr(line, " WRITE ");
        if (write && strstr(write, wanted))
            pid = atoi(write + strlen(" WRITE "));
    }
    text_close(&text);
    return pid;
}

bool lock_or_fail(int fd, const char *path, struct outcome *outcome)
{
    if (lock_file(fd, LOCK_EX))
        return true;
    fail(outcome, ENOMEM, "%s is locked by process %d for more than %d s; end that", path, holder(fd),
         PATIENCE_MILLISECONDS / 1000);
    return false;
}

void unlock_and_close(int fd)
{
    flock(fd, LOCK_UN);
    close(fd);
}

void each_name(bool (*visit)(const char *name, void *argument), void *argument)
{
    char entries[16 << 10] __attribute__((aligned(8)));
    bool matched = false;
    long length = 0;
    int fd = open_file(settings()->root, O_RDONLY | O_DIRECTORY);
    while (fd >= 0 && !matched && (length = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0) {
        const struct dirent64 *entry;
        for (long at = 0; at < length && !matched; at += entry->d_reclen) {
            entry = (void *)(entries + at);
            matched = visit(entry->d_name, argument);
        }
    }
    if (fd >= 0)
        close(fd);
}

static int read_alignment(struct store *store, struct outcome *outcome)
{
    struct path path = root_path(INFO_FILE);
    errno = EINVAL;
    if (text_number(path.text, "", &store->alignment_bytes) && store->alignment_bytes)
        return 0;
    fail(outcome, ENOMEM, "%s cannot be read (%s); mount msharefs there with `mshare mount`", path.text,
         reason(errno));
    return -1;
}

int store_prepare(struct store *store, struct outcome *outcome)
{
    if (store->alignment_bytes)
        return 0;
    if (read_alignment(store, outcome) == 0 && store->prepare(store, outcome) == 0)
        return 0;
    store->alignment_bytes = 0;
    return -1;
}

/* A region that was open before must be the same: a name can come to stand for another file. */
int store_open(struct region *region, struct outcome *outcome)
{
    struct path path = root_path(region->name);
    struct stat file;
    int fd = open_below_root(region->name, O_RDWR);
    if (fd >= 0 && fstat(fd, &file) == 0 && file.st_nlink > 1) {
        /* What is written to it would be written to somebody else's file as well. */
        fail(outcome, EPERM, "region %s is a file with %lu names (hard links); remove the others", path.text,
             (unsigned long)file.st_nlink);
        close(fd);
        return -1;
    }
    if (fd >= 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
        (!region->inode || (region->device == file.st_dev && region->inode == file.st_ino))) {
        flock(fd, LOCK_SH | LOCK_NB);
        region->device = file.st_dev;
        region->inode = file.st_ino;
        region->window_bytes = file.st_size;
        return fd;
    }
    fail(outcome, fd < 0 ? errno : ESTALE, "region %s cannot be opened (%s)", path.text,
         reason(fd < 0 ? errno : ESTALE));
    if (fd >= 0)
        close(fd);
    return -1;
}
