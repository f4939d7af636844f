# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server's segment really lies, from /proc/PID/maps, and whether that is what was asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..host import processes, segments
from ..host.processes import Vanished
from ..info import inventory
from ..kernel.abi import HUGE_PAGE_BYTES
from ..units import format_size
from .spec import NATIVE, ClusterSpec

_PMD_MAPPED = re.compile(
    rb"^(?:ShmemPmdMapped|FilePmdMapped|Shared_Hugetlb|Private_Hugetlb):\s+(\d+) kB", re.M
)
_HEADER = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ", re.M)
# Besides the ends of a segment, which may be no whole huge page: a few for which none was free.
_HUGE_SHARE = 0.9


@dataclass(frozen=True)
class Segment:
    """The largest shared mapping of a process."""

    pid: int
    kind: str
    name: str
    size_bytes: int
    """Its memory."""
    page_bytes: int
    address: int
    congruent_2mib: bool
    aligned_1gib: bool
    huge_bytes: int
    """How much of it this process has mapped by huge pages."""
    window_bytes: int | None = None
    """Of a region: the address space that is kept for it."""
    size_known: bool = True
    """False for a region of which nobody has written down its memory: size_bytes is its window then."""
    shares_tables: bool = False
    """Whether it is a window of a kernel with mshare."""
    region: str | None = None
    """The name of the region it is."""

    @property
    def text(self) -> str:
        """For a sentence."""
        huge = f", {format_size(self.huge_bytes)} of it in huge pages" if self.huge_bytes else ""
        size = format_size(self.size_bytes)
        if not self.size_known:
            size = f"window of {size}"
        elif self.window_bytes is not None:
            size = f"{size} in a window of {format_size(self.window_bytes)}"
        return f"segment {self.name} ({self.kind}, {size} at {self.address:#x}{huge})"

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return dict(vars(self))


def of(pid: int) -> Segment | None:
    """The segment of a process; None if it has none, or is gone."""
    try:
        process = processes.of_pid(pid)
    except Vanished:
        return None
    devices = segments.Devices()
    mappings = [
        (mapping, segments.kind(mapping, devices.of(mapping, pid)))
        for mapping in segments.Reader().shared(process)
    ]
    shared = [(mapping, kind) for mapping, kind in mappings if kind.kind != "file"]
    if not shared:
        return None
    # A SysV segment stays attached beside the region that stands for it, and is as large.
    largest, kind = max(shared, key=lambda pair: (pair[0].end - pair[0].start, pair[1].kind == "msharefs"))
    range_bytes = largest.end - largest.start
    is_region = kind.kind == "msharefs"
    mapped_bytes = _mapped_bytes(kind.name, kind.region) if kind.region else range_bytes
    return Segment(
        pid,
        kind.kind,
        kind.name,
        mapped_bytes or range_bytes,
        kind.page_bytes,
        largest.start,
        segments.congruent(largest),
        segments.aligned_1gib(largest),
        0 if is_region else _huge_bytes(pid, largest.start),
        range_bytes if is_region else None,
        bool(mapped_bytes),
        kind.shares_tables,
        kind.region,
    )


def _mapped_bytes(path: str, region: str) -> int | None:
    """The memory of a region; None where nobody has written down how much it is."""
    root = path[: -len(region)].rstrip("/")
    mapped_bytes: int | None = inventory.region_facts(root, region).mapped_bytes
    return mapped_bytes


def _huge_bytes(pid: int, address: int) -> int:
    """By smaps, which every kernel has: this reads one process, not a thousand as a survey does."""
    with open(f"/proc/{pid}/smaps", "rb") as file:
        content = file.read()
    start = re.search(rb"^%x-[0-9a-f]+ .*\n" % address, content, re.M)
    if start is None:
        return 0
    end = _HEADER.search(content, start.end())
    fields = content[start.end() : end.start() if end else len(content)]
    return sum(int(size) << 10 for size in _PMD_MAPPED.findall(fields))


def wrong(spec: ClusterSpec, segment: Segment | None, touched_bytes: int) -> Iterator[str]:
    """What is not as it was asked for in a process that touched so much of its segment, one clause each."""
    if segment is None:
        yield "it has no shared segment at all"
    else:
        yield from _WRONG[spec.pages](spec, segment, touched_bytes)


def _not_in_region(spec: ClusterSpec, segment: Segment, touched_bytes: int) -> Iterator[str]:
    root = spec.root or ""
    if segment.kind != "msharefs" or not segment.name.startswith(root):
        yield f"{segment.text} is not on the msharefs at {root}"
    elif spec.region is not None and segment.region != spec.region:
        yield f"{segment.text} is not region {spec.region}"


def _not_in_pool(spec: ClusterSpec, segment: Segment, touched_bytes: int) -> Iterator[str]:
    if segment.kind != "hugetlb":
        yield f"{segment.text} is not in the pool of huge pages"
    elif spec.page_bytes not in (None, segment.page_bytes):
        wanted, actual = format_size(spec.page_bytes or 0), format_size(segment.page_bytes)
        yield f"{segment.text} is in pages of {actual}, not of {wanted}"


def _not_in_pool_at_1gib(spec: ClusterSpec, segment: Segment, touched_bytes: int) -> Iterator[str]:
    if segment.kind != "hugetlb" and segment.huge_bytes < _enough_bytes(touched_bytes):
        yield f"{segment.text} is not in pages of a huge page pool"
    elif not segment.aligned_1gib:
        yield f"{segment.text} does not begin at a multiple of 1 GiB, where page tables are shared"


def _not_in_transparent(spec: ClusterSpec, segment: Segment, touched_bytes: int) -> Iterator[str]:
    if segment.kind == "hugetlb":
        # Patroni leaves huge_pages at "try", and PostgreSQL was given a pool: pages that are as large.
        return
    if not segment.congruent_2mib:
        yield f"{segment.text} does not begin where huge pages can be mapped, congruent to 2 MiB"
    elif not spec.align_only and segment.huge_bytes < _enough_bytes(touched_bytes):
        touched = format_size(touched_bytes)
        yield f"{segment.text} should be in huge pages for all of the {touched} that were touched"


def _enough_bytes(touched_bytes: int) -> float:
    return _HUGE_SHARE * (touched_bytes - 2 * HUGE_PAGE_BYTES)


_WRONG: dict[str, Callable[[ClusterSpec, Segment, int], Iterator[str]]] = {
    "4k": _not_in_region,
    "hugetlb": _not_in_pool_at_1gib,
    "thp": _not_in_transparent,
    NATIVE: _not_in_pool,
}
"""By the pages that were asked for."""
