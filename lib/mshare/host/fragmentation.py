# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much free memory lies in blocks large enough for huge pages, by /proc/buddyinfo (proc(5))."""

from __future__ import annotations

import os

from ..kernel.abi import HUGE_PAGE_BYTES
from . import procfs


def free_huge_bytes(text: str | None = None) -> int | None:
    """Free memory in blocks of at least a huge page, in bytes; None where the kernel does not show it.

    `text` is of /proc/buddyinfo, "" where it cannot be read: per zone the number of free blocks of 1, 2, 4,
    ... pages. Memory in the page cache is not counted, though compaction may free larger blocks of it.
    """
    content = procfs.read("/proc/buddyinfo") if text is None else text
    if not content:
        return None
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    smallest_order = (HUGE_PAGE_BYTES // page_bytes).bit_length() - 1
    free_bytes = 0
    for line in procfs.lines(content):
        counts = line.partition("zone")[2].split()[1:]
        for order, count in enumerate(counts):
            if order >= smallest_order:
                free_bytes += (int(count) << order) * page_bytes
    return free_bytes
