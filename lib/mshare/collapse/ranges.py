# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared segments of a process as ranges of 2 MiB: which are in use, and which are in huge pages."""

from __future__ import annotations

from dataclasses import dataclass

from ..host import pagemap, processes, segments
from ..host.processes import Process, Vanished
from ..host.segments import Mapping
from ..kernel.abi import HUGE_PAGE_BYTES

_GONE = (Vanished, FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Segment:
    """A shared segment where one process has it mapped."""

    kind: str
    name: str
    mapping: Mapping
    congruent: bool
    """Whether it lies where huge pages of 2 MiB can be mapped."""

    @property
    def size_bytes(self) -> int:
        return self.mapping.end - self.mapping.start


@dataclass(frozen=True)
class Ranges:
    """The whole ranges of 2 MiB in a segment, by their addresses in one process."""

    small: tuple[int, ...]
    """In use by some process, and in pages of 4 KiB in this process."""
    huge: tuple[int, ...]
    """In huge pages in this process."""

    @property
    def used_bytes(self) -> int:
        return (len(self.small) + len(self.huge)) * HUGE_PAGE_BYTES

    @property
    def huge_bytes(self) -> int:
        return len(self.huge) * HUGE_PAGE_BYTES


def of(process: Process) -> list[Segment]:
    """The shared segments of a process, the largest first; no files, no devices."""
    devices = segments.Devices()
    shared_segments = [
        Segment(kind.kind, kind.name, mapping, segments.congruent(mapping))
        for mapping in segments.Reader().shared(process)
        for kind in [segments.kind(mapping, devices.of(mapping, process.pid))]
        if kind.kind != "file"
    ]
    return sorted(shared_segments, key=lambda segment: segment.size_bytes, reverse=True)


def users(segment: Segment) -> list[tuple[Process, Mapping]]:
    """Every process that has a segment mapped, and where."""
    reader = segments.Reader()
    return [
        (process, mapping)
        for process in processes.read_all().processes
        for mapping in _shared(reader, process)
        if mapping.identity == segment.mapping.identity
    ]


def _shared(reader: segments.Reader, process: Process) -> segments.Mappings:
    try:
        return reader.shared(process)
    except (*_GONE, PermissionError):
        return ()


def ranges(process: Process, segment: Segment, attached: list[tuple[Process, Mapping]]) -> Ranges:
    """Which ranges of a segment are in use by any process that maps it, as addresses in `process`.

    What nobody uses stays out: to put that into huge pages would take memory for nothing.
    """
    here = segment.mapping
    first = -(-here.start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
    whole = range(first, here.end - HUGE_PAGE_BYTES + 1, HUGE_PAGE_BYTES)
    used: set[int] = set()
    huge: set[int] = set()
    for other, mapping in attached:
        moved = (here.start - here.offset) - (mapping.start - mapping.offset)
        found = _populated(other, mapping)
        in_huge = {_begin(address + moved) for address in found.huge}
        used |= in_huge.union(_begin(address + moved) for address in found.small)
        if other.pid == process.pid:
            huge |= in_huge
    return Ranges(
        tuple(address for address in whole if address in used - huge),
        tuple(address for address in whole if address in huge),
    )


def _begin(address: int) -> int:
    return address // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES


def _populated(process: Process, mapping: Mapping) -> pagemap.Populated:
    try:
        with pagemap.Pagemap(process.pid) as opened:
            return opened.populated(mapping, HUGE_PAGE_BYTES)
    except (*_GONE, PermissionError):
        return pagemap.Populated([], [])
