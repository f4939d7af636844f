/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What both stores have in common: the root, its alignment, being asked once, and a region's file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "preload.h"

struct path root_path(const char *name)
{
    struct path path;
    snprintf(path.text, sizeof path.text, "%s/%s", settings()->root, name);
    return path;
}

static int read_alignment(struct store *store, struct outcome *outcome)
{
    struct path path = root_path(INFO_FILE);
    FILE *file = fopen(path.text, "re");
    char text[64] = "";
    if (!file || !fgets(text, sizeof text, file))
        fail(outcome, ENOMEM, "%s cannot be read (%s); mount msharefs there with `mshare mount`", path.text,
             strerror(errno));
    if (file)
        fclose(file);
    store->alignment_bytes = strtoull(text, NULL, 10);
    return store->alignment_bytes ? 0 : -1;
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

int store_open(struct region *region, struct outcome *outcome)
{
    struct path path = root_path(region->name);
    struct stat found;
    region->fd = open(path.text, O_RDWR | O_CLOEXEC);
    if (region->fd < 0 || fstat(region->fd, &found) < 0) {
        fail(outcome, errno, "region %s cannot be opened (%s)", path.text, strerror(errno));
        return -1;
    }
    flock(region->fd, LOCK_SH);
    region->window_bytes = found.st_size;
    return 0;
}
