/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the user is told: one line on stderr, in one write, so that lines of several processes never mix.
 */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "preload.h"

void say(const char *format, ...)
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
    /* stderr may be closed in a daemon; there is nobody to tell then. */
    if (write(STDERR_FILENO, line, length + 1) < 0)
        return;
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
