/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What came of a segment.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

/* In newer C libraries without reading the locale, which may take a lock. */
const char *strerrordesc_np(int) __attribute__((weak));

const char *reason(int code)
{
    const char *text = strerrordesc_np ? strerrordesc_np(code) : strerror(code);
    return text ? text : "unknown error";
}
