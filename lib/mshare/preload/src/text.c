/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reading /proc and /sys line by line, without stdio, which allocates memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload.h"

bool text_open(struct text *text, const char *path)
{
    text->at = text->end = 0;
    /* A FIFO in place of a file must not make us wait. */
    text->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    return text->fd >= 0;
}

static int next_byte(struct text *text)
{
    if (text->at == text->end) {
        ssize_t length = kernel_read(text->fd, text->bytes, sizeof text->bytes);
        if (length <= 0)
            return -1;
        text->at = 0;
        text->end = length;
    }
    return (unsigned char)text->bytes[text->at++];
}

bool text_line(struct text *text, char *line, size_t size)
{
    size_t length = 0;
    int byte;
    while ((byte = next_byte(text)) >= 0 && byte != '\n')
        if (length + 1 < size)
            line[length++] = byte;
    line[length] = 0;
    return byte >= 0 || length;
}

void text_close(struct text *text) { close(text->fd); }

bool text_number(const char *path, const char *key, size_t *number)
{
    struct text text;
    char line[256];
    bool matched = false;
    if (!text_open(&text, path))
        return false;
    while (!matched && text_line(&text, line, sizeof line)) {
        char *start = line + strlen(key), *end = start;
        if (strncmp(line, key, strlen(key)) == 0)
            *number = strtoull(start, &end, 10);
        matched = end != start;
    }
    text_close(&text);
    return matched;
}
