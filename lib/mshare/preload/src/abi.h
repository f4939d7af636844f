/* Copyright: dbmem.mshare contributors
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The kernel's numbers, as in lib/mshare/kernel/abi.py, and the keeper's messages; a unit test compiles this
 * header and compares.
 */
#ifndef MSHARE_ABI_H
#define MSHARE_ABI_H

#include <linux/ioctl.h>
#include <stdint.h>

#define FILESYSTEM_MAGIC 0x4d534852
#define INFO_FILE "mshare_info"
#define PAGE_BYTES 4096UL
#define HUGE_PAGE_BYTES (2UL << 20)

struct mshare_info {
    uint64_t start;
    uint64_t size;
};

struct mshare_create {
    uint64_t where; /* an address in the generations before 2025-04, an offset since */
    uint64_t size;
    uint64_t offset;
    uint32_t prot;
    uint32_t flags;
    uint32_t fd;
};

struct mshare_unmap {
    uint64_t where;
    uint64_t size;
};

#define GET_SIZE _IOR('x', 0, struct mshare_info)
#define UNMAP_BY_ADDRESS _IOW('x', 3, struct mshare_unmap)
/* UNMAP_BY_OFFSET has the number that SET_SIZE had before: never send it to an unknown generation. */
#define CREATE_MAPPING_BY_OFFSET _IOW('x', 0, struct mshare_create)
#define UNMAP_BY_OFFSET _IOW('x', 1, struct mshare_unmap)

/* The messages between a program and the keeper of files' regions, as in lib/mshare/preload/keeper.py. */

#define KEEPER_VERSION 1

struct keeper_question {
    uint32_t version;
    uint32_t writable;
    uint64_t offset;
    uint64_t size;
};

struct keeper_answer {
    int32_t code; /* errno; 0: the region's descriptor comes with it */
    uint32_t version;
    uint64_t window_bytes;
    uint64_t alignment_bytes;
    char text[232]; /* the region's name, or a sentence */
};

#endif
