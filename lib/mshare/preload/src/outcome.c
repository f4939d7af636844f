/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What came of a segment.
 */
#include <stdarg.h>
#include <stdio.h>

#include "preload.h"

void *fail(struct outcome *outcome, int code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(outcome->why, sizeof outcome->why, format, values);
    va_end(values);
    outcome->code = code;
    return NULL;
}
