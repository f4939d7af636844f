# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which part of the processes' page tables is due to their segments: sampled, or exact.

VmPTE says what a process pays in all. A scan of a sample tells the segments' part of it; the rest, its
remainder, hardly differs between processes with the same segments, so that the remainder tells
the segments' part of those that were not scanned. More are scanned while samples disagree.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from ..host import pagemap
from ..host.processes import Missing, Process, Vanished, missing
from ..host.segments import Mappings

SAMPLES = 3
_SAMPLES_MAXIMUM = 16
# Of all tables: how much one gap between two samples may be off, a fifth of what the survey as a whole may.
_TOLERANCE = 0.002
_ATTEMPTS = 4
Identity = tuple[bytes, int]


class Sample(NamedTuple):
    """A process that was scanned."""

    vm_pte_bytes: int
    segments_bytes: int
    tables: dict[Identity, pagemap.Tables]

    @property
    def remainder_bytes(self) -> int:
        return self.vm_pte_bytes - self.segments_bytes


Samples = dict[tuple[Process, Mappings], Sample]


@dataclass
class Attribution:
    """Page tables of a group, by segment."""

    segments: dict[Identity, float] = field(default_factory=dict)
    huge_bytes: dict[Identity, int] = field(default_factory=dict)
    scanned: int = 0
    missing: list[Missing] = field(default_factory=list)
    vanished: int = 0

    @property
    def bytes(self) -> int:
        return round(sum(self.segments.values()))

    def add(self, other: Attribution) -> None:
        for identity, tables_bytes in other.segments.items():
            self.segments[identity] = self.segments.get(identity, 0) + tables_bytes
        for identity, huge in other.huge_bytes.items():
            self.huge_bytes[identity] = max(self.huge_bytes.get(identity, 0), huge)
        self.scanned += other.scanned
        self.missing += other.missing
        self.vanished += other.vanished


Scan = Callable[[Process], "Sample | None"]


class Scanner:
    """Scans processes that have the same mappings; `known` has samples of some that have not run since."""

    def __init__(self, mappings: Mappings, page_bytes: dict[Identity, int], known: Samples) -> None:
        self._mappings = [(mapping, page_bytes[mapping.identity]) for mapping in mappings]
        self._key = mappings
        self._known = known
        self._unread: set[Process] = set()
        self.missing: list[Missing] = []
        self.vanished = 0

    def scan(self, process: Process) -> Sample | None:
        """None for a process that is gone or may not be read."""
        known = self._known.get((process, self._key))
        if known is None and process not in self._unread:
            known = self._scanned(process)
            if known is not None:
                self._known[process, self._key] = known
            else:
                # It is counted once, however often the sampling comes back to it.
                self._unread.add(process)
        return known

    def _scanned(self, process: Process) -> Sample | None:
        try:
            with pagemap.Pagemap(process.pid) as opened:
                tables = pagemap.tables(opened, self._mappings)
        except (FileNotFoundError, ProcessLookupError, Vanished):
            self.vanished += 1
            return None
        except PermissionError:
            self.missing.append(missing(process.pid, "pagemap"))
            return None
        tables_bytes = sum(table.bytes for table in tables.values())
        # A process keeps running while it is read, and kernels before 6.7 do not report huge pages.
        return Sample(process.vm_pte_bytes, min(tables_bytes, process.vm_pte_bytes), tables)


def attribute(
    group: list[Process],
    mappings: Mappings,
    page_bytes: dict[Identity, int],
    exact: bool = False,
    known: Samples | None = None,
) -> Attribution:
    """Page tables by segment of processes that have the same mappings."""
    scanner = Scanner(mappings, page_bytes, {} if known is None else known)
    ordered = sorted(group, key=attrgetter("vm_pte_bytes"))
    samples = _all(ordered, scanner.scan) if exact else _Sampling(ordered, scanner.scan).run()
    attribution = Attribution(missing=scanner.missing, vanished=scanner.vanished, scanned=len(samples))
    for size_bytes, sample in _estimates(ordered, samples):
        _account(attribution, size_bytes, sample)
    for sample in samples.values():
        for identity, tables in sample.tables.items():
            attribution.huge_bytes[identity] = max(attribution.huge_bytes.get(identity, 0), tables.huge_bytes)
    return attribution


def _all(ordered: list[Process], scan: Scan) -> dict[int, Sample]:
    scanned = ((index, scan(process)) for index, process in enumerate(ordered))
    return {index: sample for index, sample in scanned if sample is not None}


class _Sampling:
    """The smallest and the largest; then one between them, and again in whatever gap could err the most."""

    def __init__(self, ordered: list[Process], scan: Scan) -> None:
        self._ordered = ordered
        self._scan = scan
        self._gaps: list[tuple[float, int, int]] = []
        self._tolerated_bytes = sum(process.vm_pte_bytes for process in ordered) * _TOLERANCE
        self.samples: dict[int, Sample] = {}

    def run(self) -> dict[int, Sample]:
        low, high = self._take(0, 1), self._take(len(self._ordered) - 1, -1)
        if low is not None and high is not None:
            self._gap(low, high)
        while self._gaps and len(self.samples) < _SAMPLES_MAXIMUM:
            doubt_bytes, low, high = heapq.heappop(self._gaps)
            if len(self.samples) >= SAMPLES and -doubt_bytes <= self._tolerated_bytes:
                break
            middle = self._take(self._between(low, high), 1)
            if middle is not None and low < middle < high:
                self._gap(low, middle)
                self._gap(middle, high)
        return self.samples

    def _between(self, low: int, high: int) -> int:
        """Where a gap is best parted: at a jump that makes up most of it, else in the middle.

        Background processes of a server pay much less than its sessions, and each of the two hardly differ.
        """
        sizes_bytes = [process.vm_pte_bytes for process in self._ordered[low : high + 1]]
        jumps = [after - before for before, after in zip(sizes_bytes, sizes_bytes[1:])]
        largest = max(jumps)
        if 2 * largest <= sizes_bytes[-1] - sizes_bytes[0]:
            return (low + high) // 2
        return low + max(1, min(jumps.index(largest) + 1, len(jumps) - 1))

    def _take(self, index: int, step: int) -> int | None:
        """Scan a process, or the next process that still exists."""
        for at in range(index, index + step * _ATTEMPTS, step):
            if not 0 <= at < len(self._ordered):
                return None
            sample = self.samples.get(at) or self._scan(self._ordered[at])
            if sample is not None:
                self.samples[at] = sample
                return at
        return None

    def _gap(self, low: int, high: int) -> None:
        """Remember how much the processes between two samples could be off at worst."""
        between = high - low - 1
        if between > 0:
            apart = abs(self.samples[high].remainder_bytes - self.samples[low].remainder_bytes)
            heapq.heappush(self._gaps, (-float(apart * between), low, high))


def _estimates(ordered: list[Process], samples: dict[int, Sample]) -> Iterator[tuple[float, Sample]]:
    """The segments' part of the processes, and the sample that tells how the segments share it."""
    positions = sorted(samples)
    for position in positions:
        yield samples[position].segments_bytes, samples[position]
    if not positions:
        return
    # Between two samples; before the first and after the last there is only one.
    lows = [positions[0], *positions]
    highs = [*positions, positions[-1]]
    starts = [0, *(position + 1 for position in positions)]
    ends = [*positions, len(ordered)]
    for low, high, start, end in zip(lows, highs, starts, ends):
        # Most processes pay the same as another: one calculation for all of them.
        counts = Counter([process.vm_pte_bytes for process in ordered[start:end]])
        for vm_pte_bytes, count in counts.items():
            size_bytes, sample = _estimate(samples[low], samples[high], vm_pte_bytes)
            yield size_bytes * count, sample


def _estimate(low: Sample, high: Sample, vm_pte_bytes: int) -> tuple[float, Sample]:
    """The segments' part of a process between two samples, and the nearer of them."""
    width = high.vm_pte_bytes - low.vm_pte_bytes
    part = min(1.0, max(0.0, (vm_pte_bytes - low.vm_pte_bytes) / width)) if width else 0.5
    remainder = low.remainder_bytes + part * (high.remainder_bytes - low.remainder_bytes)
    return max(0.0, vm_pte_bytes - remainder), low if part < 0.5 else high


def _account(attribution: Attribution, tables_bytes: float, sample: Sample) -> None:
    whole = sum(tables.bytes for tables in sample.tables.values())
    for identity, tables in sample.tables.items():
        share = tables.bytes / whole if whole else 0
        attribution.segments[identity] = attribution.segments.get(identity, 0) + tables_bytes * share
