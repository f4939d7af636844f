# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which page tables the populated ranges of a process's segments need.

One question per 2 MiB range: PAGEMAP_SCAN (Linux 6.7) stops at the first page it finds, so that
neither holes nor full tables are walked through; before, pagemap itself is read.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..pagetable import BASE_PAGE_BYTES, TABLE_BYTES
from ..units import GIB, MIB
from .segments import Mapping

_PAGEMAP_SCAN = 0xC0606610
_ARGUMENT_BYTES = 96
_PRESENT, _SWAPPED, _HUGE = 1 << 3, 1 << 4, 1 << 6
_START, _END, _WALK_END = 2, 3, 4
# Bits 63 and 62 of an entry: present, swapped; the others are set in holes too.
_POPULATED = 0x40
_LEAF_SPAN_BYTES = 2 * MIB
_ENTRIES = _LEAF_SPAN_BYTES // BASE_PAGE_BYTES


@dataclass
class Tables:
    """Page tables for one segment in one process."""

    leaf: int = 0
    pmd: int = 0
    huge_bytes: int = 0

    @property
    def bytes(self) -> int:
        return (self.leaf + self.pmd) * TABLE_BYTES


def scan_available() -> bool:
    """Whether this kernel has PAGEMAP_SCAN."""
    try:
        with Pagemap("self") as pagemap:
            return pagemap.scanning
    except OSError:
        return False


class Populated(NamedTuple):
    """Addresses of pages, in order: of small ones, and of parts of huge ones."""

    small: list[int]
    huge: list[int]


class Pagemap:
    """An open /proc/PID/pagemap."""

    def __init__(self, pid: int | str, scanning: bool = True) -> None:
        self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._map_files = f"/proc/{pid}/map_files"
        self._ranges = array.array("Q", [0, 0, 0])
        self._argument = array.array(
            "Q",
            # size, flags, start, end, walk_end, vec, vec_len, max_pages, and which categories
            (
                *(_ARGUMENT_BYTES, 0, 0, 0, 0, self._ranges.buffer_info()[0], 1, 1, 0, 0),
                *(_PRESENT | _SWAPPED, _PRESENT | _SWAPPED | _HUGE),
            ),
        )
        self.scanning = scanning and self._has_scan()

    def __enter__(self) -> Pagemap:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def _has_scan(self) -> bool:
        try:
            self._scan(0, BASE_PAGE_BYTES)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return False
            raise
        return True

    def _scan(self, start: int, end: int) -> bool:
        self._argument[_START] = start
        self._argument[_END] = end
        regions: int = fcntl.ioctl(self._fd, _PAGEMAP_SCAN, self._argument, True)
        return regions > 0

    def populated(self, mapping: Mapping, step: int, page_bytes: int = BASE_PAGE_BYTES) -> Populated:
        """The first populated page in each `step` bytes with any.

        `page_bytes` is the size of the pages of the mapping's file. Without PAGEMAP_SCAN transparent huge
        pages are not told from small ones.
        """
        small: list[int] = []
        huge: list[int] = []
        if not self.scanning:
            return Populated([*self._read(mapping, step, page_bytes)], huge)
        # Where a survey spends most of its time: not a call more than the kernel's.
        fd, argument, region, ask = self._fd, self._argument, self._ranges, fcntl.ioctl
        add_small, add_huge = small.append, huge.append
        start, end = mapping.start, mapping.end
        argument[_END] = end
        while start < end:
            argument[_START] = start
            if ask(fd, _PAGEMAP_SCAN, argument, True) <= 0:
                break
            address = region[0]
            (add_huge if region[2] & _HUGE else add_small)(address)
            start = (address // step + 1) * step
        return Populated(small, huge)

    def _read(self, mapping: Mapping, step: int, page_bytes: int) -> Iterator[int]:
        """From pagemap itself, an entry per page; one entry is enough for a page of the file's own size."""
        known = -1
        for used_start, end in self._used(mapping):
            start = used_start
            while start < end:
                stop = min(end, (start // _LEAF_SPAN_BYTES + 1) * _LEAF_SPAN_BYTES)
                count = (stop - start) // BASE_PAGE_BYTES if page_bytes == BASE_PAGE_BYTES else 1
                if start // step != known:
                    entries = os.pread(self._fd, count * 8, start // BASE_PAGE_BYTES * 8)
                    if entries and max(entries[7::8]) >= _POPULATED:
                        known = start // step
                        yield start
                start = (start // step + 1) * step if count == 1 or start // step == known else stop

    def _used(self, mapping: Mapping) -> Iterator[tuple[int, int]]:
        """The addresses at which a process can have pages, as far as the file behind a mapping tells."""
        try:
            fd = os.open(f"{self._map_files}/{mapping.start:x}-{mapping.end:x}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # It takes CAP_SYS_ADMIN; or the mapping has changed meanwhile.
            yield mapping.start, mapping.end
            return
        try:
            yield from _data(fd, mapping)
        finally:
            os.close(fd)


def _data(fd: int, mapping: Mapping) -> Iterator[tuple[int, int]]:
    moved, end = mapping.start - mapping.offset, mapping.end - mapping.start + mapping.offset
    offset = mapping.offset
    try:
        # Only memory has seals. A file on a disk has pages in memory where it has no data on the disk.
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        while offset < end:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
            hole = os.lseek(fd, offset, os.SEEK_HOLE)
            if offset < end:
                yield moved + offset, moved + min(hole, end)
            offset = hole
    except OSError as error:
        # ENXIO: no data from here to the end. Else the file system does not tell.
        if error.errno != errno.ENXIO:
            yield moved + offset, moved + end


def tables(pagemap: Pagemap, mappings: list[tuple[Mapping, int]]) -> dict[tuple[bytes, int], Tables]:
    """Page tables by segment for mappings in order of address, each with its page size in bytes."""
    by_segment: dict[tuple[bytes, int], Tables] = {}
    last_leaf = last_pmd = -1
    for mapping, page_bytes in mappings:
        of_segment = by_segment.setdefault(mapping.identity, Tables())
        step = max(_LEAF_SPAN_BYTES, page_bytes)
        small, huge = pagemap.populated(mapping, step, page_bytes)
        if page_bytes < GIB:
            pmds = {address // GIB for address in small}
            pmds.update([address // GIB for address in huge])
            of_segment.pmd += len(pmds - {last_pmd})
            last_pmd = max(pmds, default=last_pmd)
        if page_bytes > BASE_PAGE_BYTES:
            of_segment.huge_bytes += (len(small) + len(huge)) * step
            continue
        of_segment.huge_bytes += len(huge) * step
        of_segment.leaf += len(small)
        if small:
            # Two mappings in one 2 MiB range share a table.
            of_segment.leaf -= small[0] // _LEAF_SPAN_BYTES == last_leaf
            last_leaf = small[-1] // _LEAF_SPAN_BYTES
    return by_segment
