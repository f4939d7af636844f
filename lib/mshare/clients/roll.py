# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clients live and which have died, and what those that live have measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .client import Report, Touched
from .status import DeadClient


@dataclass
class Member:
    """A client that lives."""

    number: int
    pid: int
    started: float
    """By the monotonic clock, in seconds."""
    report: Report | None = None
    """What the client told about itself; None until then."""
    settled_vm_pte_bytes: int | None = None
    """VmPTE of a program of the user's, which tells nothing, once it has lived for the settling time."""

    @property
    def touched(self) -> Touched | None:
        return None if self.report is None else self.report.touched

    @property
    def attached(self) -> bool:
        if self.report is not None:
            return self.report.touched is not None
        return self.settled_vm_pte_bytes is not None


@dataclass
class Roll:
    """The clients of one launcher."""

    alive: dict[int, Member] = field(default_factory=dict)
    """By pid."""
    dead: list[DeadClient] = field(default_factory=list)

    def attached(self) -> list[Member]:
        return [member for member in self.alive.values() if member.attached]

    def waiting(self) -> list[Member]:
        """Those that are not attached yet."""
        return [member for member in self.alive.values() if not member.attached]

    def numbers(self) -> set[int]:
        return {member.number for member in self.alive.values()}

    def bury(self, pid: int, reason: str) -> Member | None:
        """Remove an ended client from the living; None for a process that was not a client."""
        member = self.alive.pop(pid, None)
        if member is not None:
            self.dead.append(DeadClient(member.number, pid, reason))
        return member

    # -- figures over the attached clients. Programs of the user's tell nothing: None, not 0.

    def attach_ms(self, over: Callable[[list[int]], float]) -> float | None:
        """What `over` (a median, the maximum) gives for the times to attach, in milliseconds."""
        times_us = [member.touched.attach_us for member in self.attached() if member.touched is not None]
        return over(times_us) / 1000 if times_us else None

    def attach_ms_median(self) -> float | None:
        return self.attach_ms(statistics.median)

    def attach_ms_max(self) -> float | None:
        return self.attach_ms(max)

    def vm_pte_before_bytes(self) -> int | None:
        """VmPTE of all before they mapped the region; None if one of them could not be read."""
        return _sum(
            member.touched.vm_pte_before_bytes if member.touched else None for member in self.attached()
        )

    def vm_pte_after_bytes(self) -> int | None:
        """VmPTE of all, once they are attached."""
        return _sum(
            member.touched.vm_pte_after_bytes if member.touched else member.settled_vm_pte_bytes
            for member in self.attached()
        )


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
