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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from . import pagemap
from .processes import Missing, Process, Vanished, missing
from .segments import Mappings

SAMPLES = 3
_SAMPLES_MAXIMUM = 16
# A tenth of what the sampled figures may be off; a gap between two samples is at worst wholly wrong.
_TOLERANCE = 0.002

Identity = tuple[bytes, int]


class Sample(NamedTuple):
    """A process that was scanned."""

    vm_pte_bytes: int
    segments_bytes: int
    tables: dict[Identity, pagemap.Tables]

    @property
    def remainder_bytes(self) -> int:
        return self.vm_pte_bytes - self.segments_bytes


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
        for identity, size in other.segments.items():
            self.segments[identity] = self.segments.get(identity, 0) + size
        for identity, huge in other.huge_bytes.items():
            self.huge_bytes[identity] = max(self.huge_bytes.get(identity, 0), huge)
        self.scanned += other.scanned
        self.missing += other.missing
        self.vanished += other.vanished


Scan = Callable[[Process], "Sample | None"]


class Scanner:
    """Scans processes that have the same mappings."""

    def __init__(self, mappings: Mappings, page_bytes: dict[Identity, int]) -> None:
        self._mappings = [(one, page_bytes[one.identity]) for one in mappings]
        self.missing: list[Missing] = []
        self.vanished = 0

    def scan(self, process: Process) -> Sample | None:
        """None for a process that is gone or may not be looked into."""
        try:
            with pagemap.Pagemap(process.pid) as opened:
                tables = pagemap.tables(opened, self._mappings)
        except (FileNotFoundError, ProcessLookupError, Vanished):
            self.vanished += 1
            return None
        except PermissionError:
            self.missing.append(missing(process.pid, "pagemap"))
            return None
        found = sum(one.bytes for one in tables.values())
        # A process goes on while it is looked at, and kernels before 6.7 do not tell huge pages.
        return Sample(process.vm_pte_bytes, min(found, process.vm_pte_bytes), tables)


def attribute(
    group: list[Process], mappings: Mappings, page_bytes: dict[Identity, int], exact: bool = False
) -> Attribution:
    """Page tables by segment of processes that have the same mappings."""
    scanner = Scanner(mappings, page_bytes)
    ordered = sorted(group, key=lambda process: process.vm_pte_bytes)
    samples = _all(ordered, scanner.scan) if exact else _some(ordered, scanner.scan)
    found = Attribution(missing=scanner.missing, vanished=scanner.vanished, scanned=len(samples))
    positions = sorted(samples)
    for index, process in enumerate(ordered):
        if positions:
            _account(found, process, _nearest(index, positions, samples, ordered))
    for sample in samples.values():
        for identity, tables in sample.tables.items():
            found.huge_bytes[identity] = max(found.huge_bytes.get(identity, 0), tables.huge_bytes)
    return found


def _all(ordered: list[Process], scan: Scan) -> dict[int, Sample]:
    scanned = ((index, scan(process)) for index, process in enumerate(ordered))
    return {index: sample for index, sample in scanned if sample is not None}


def _some(ordered: list[Process], scan: Scan) -> dict[int, Sample]:
    """The smallest, the largest and the middle; then the middle of whatever gap could err the most."""
    samples: dict[int, Sample] = {}
    total = sum(process.vm_pte_bytes for process in ordered)
    last = len(ordered) - 1

    def take(index: int, step: int) -> int | None:
        # Of processes that end meanwhile, the next one.
        for __ in range(4):
            if not 0 <= index <= last:
                return None
            if index not in samples:
                sample = scan(ordered[index])
                if sample is not None:
                    samples[index] = sample
                    return index
            else:
                return index
            index += step
        return None

    low, high = take(0, 1), take(last, -1)
    if low is None or high is None or high - low < 2:
        return samples
    gaps = [(-float("inf"), low, high)]
    while gaps and len(samples) < _SAMPLES_MAXIMUM:
        doubt, low, high = heapq.heappop(gaps)
        if len(samples) >= SAMPLES and -doubt <= total * _TOLERANCE:
            break
        middle = take((low + high) // 2, 1)
        if middle is None or not low < middle < high:
            continue
        for one, two in ((low, middle), (middle, high)):
            if two - one > 1:
                apart = abs(samples[two].remainder_bytes - samples[one].remainder_bytes)
                heapq.heappush(gaps, (-float(apart * (two - one - 1)), one, two))
    return samples


def _nearest(
    index: int, positions: list[int], samples: dict[int, Sample], ordered: list[Process]
) -> tuple[float, Sample]:
    """The segments' part of a process, and the sample that tells how segments share it."""
    if index in samples:
        return samples[index].segments_bytes, samples[index]
    below = max((at for at in positions if at < index), default=positions[0])
    above = min((at for at in positions if at > index), default=positions[-1])
    one, two = samples[below], samples[above]
    size = ordered[index].vm_pte_bytes
    width = two.vm_pte_bytes - one.vm_pte_bytes
    part = min(1.0, max(0.0, (size - one.vm_pte_bytes) / width)) if width else 0.5
    remainder = one.remainder_bytes + part * (two.remainder_bytes - one.remainder_bytes)
    return max(0.0, size - remainder), one if part < 0.5 else two


def _account(found: Attribution, process: Process, estimate: tuple[float, Sample]) -> None:
    size, sample = estimate
    whole = sum(tables.bytes for tables in sample.tables.values())
    for identity, tables in sample.tables.items():
        share = tables.bytes / whole if whole else 0
        found.segments[identity] = found.segments.get(identity, 0) + size * share
