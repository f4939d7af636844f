/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What was taken over, by address. A table without a lock: a program may fork while another thread is in
 * here, and the child must not wait for a thread that it does not have.
 */
#include "preload.h"

enum { SEGMENTS = 128, CLAIMED = 1 };

static struct segment table[SEGMENTS];
static _Atomic int used; /* most programs never have one: their munmap costs this one look */

bool segment_add(void *address, size_t size, size_t whole, struct region *region, void *shadow)
{
    for (int i = 0; i < SEGMENTS; i++) {
        uintptr_t empty = 0;
        if (!__atomic_compare_exchange_n((uintptr_t *)&table[i].address, &empty, CLAIMED, false,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        table[i].size = size;
        table[i].whole = whole;
        table[i].region = region;
        table[i].shadow = shadow;
        table[i].address = (uintptr_t)address;
        used++;
        return true;
    }
    return false;
}

struct segment *segment_at(const void *address)
{
    if (!used || (uintptr_t)address <= CLAIMED)
        return NULL;
    for (int i = 0; i < SEGMENTS; i++)
        if (table[i].address == (uintptr_t)address)
            return &table[i];
    return NULL;
}

void segment_clear(struct segment *segment)
{
    segment->address = 0;
    used--;
}
