# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the guest: leaves most memory free, and hardly any of it in blocks as large as a huge page.

    python3 fragment.py LEFT_MIB

Fills all available memory but LEFT_MIB, keeps a page of each 2 MiB in a pipe, where the kernel cannot move
it (pinned anonymous pages, see isolate_migratepages_block in mm/compaction.c), and gives back the rest. It
returns when that is done. A process stays that has the pipes; memory is as before when it ends.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import signal
import sys

PAGE_BYTES, BLOCK_PAGES = mmap.PAGESIZE, 512
MADV_POPULATE_WRITE, F_SETPIPE_SZ, PIPE_BYTES = 23, 1031, 1 << 20
PFN_MASK = (1 << 55) - 1
# Memory is given out in runs of pages: to look at each page would take much longer, and find the same blocks.
STEP_PAGES = 32


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def available_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) << 10


def frame_numbers(address: int, size_bytes: int) -> array.array[int]:
    """The physical page of each page, by /proc/self/pagemap."""
    entries = array.array("Q")
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(address // PAGE_BYTES * entries.itemsize)
        entries.frombytes(file.read(size_bytes // PAGE_BYTES * entries.itemsize))
    return array.array("Q", (entry & PFN_MASK for entry in entries[::STEP_PAGES]))


def main() -> None:
    size_bytes = available_bytes() - (int(sys.argv[1]) << 20)
    size_bytes -= size_bytes % PAGE_BYTES
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(MADV_POPULATE_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    seen: set[int] = set()
    writer = room_bytes = 0
    for number, frame in enumerate(frame_numbers(address, size_bytes)):
        if frame // BLOCK_PAGES in seen:
            continue
        seen.add(frame // BLOCK_PAGES)
        if not room_bytes:
            writer = os.pipe()[1]
            room_bytes = fcntl.fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
        page = Iovec(address + number * STEP_PAGES * PAGE_BYTES, PAGE_BYTES)
        taken = libc.vmsplice(writer, ctypes.byref(page), ctypes.c_size_t(1), 0)
        assert taken == PAGE_BYTES, os.strerror(ctypes.get_errno())
        room_bytes -= PAGE_BYTES
    # Not by closing it, which an address that was taken of it forbids.
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes))
    if os.fork() == 0:
        signal.pause()
    # Without an end of Python's own, in which it would unmap that memory once more.
    os._exit(0)


if __name__ == "__main__":
    main()
