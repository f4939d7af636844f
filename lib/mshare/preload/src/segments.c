/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The segments that lie in regions, by address. Only guarded steps change them.
 */
#include <errno.h>

#include "preload.h"

struct segment segments[SEGMENTS];

static struct segment *free_slot(void)
{
    for (int i = 0; i < SEGMENTS; i++)
        if (!segments[i].address)
            return &segments[i];
    return NULL;
}

bool segment_left(struct outcome *outcome)
{
    if (free_slot())
        return true;
    fail(outcome, ENOMEM, "this process has %d segments in regions already, which is the maximum",
         SEGMENTS);
    return false;
}

void segment_add(void *address, size_t size, struct region *region, void *shadow)
{
    struct segment *slot = free_slot();
    if (slot)
        *slot = (struct segment){.address = address, .size = size, .region = region, .shadow = shadow};
}

struct segment *segment_at(const void *address)
{
    for (int i = 0; address && i < SEGMENTS; i++)
        if (segments[i].address == address)
            return &segments[i];
    return NULL;
}
