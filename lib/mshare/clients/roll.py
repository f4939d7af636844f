# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clients live and which have died, and what those that live have measured.

There may be thousands, which end one after the other. So counts and sums are kept as they change, and no look
walks the clients.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field

from .client import Report, Touched
from .status import DeadClient


@dataclass
class Member:
    """A client that lives. The roll it is on changes it."""

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

    @property
    def vm_pte_before_bytes(self) -> int | None:
        return None if self.touched is None else self.touched.vm_pte_before_bytes

    @property
    def vm_pte_after_bytes(self) -> int | None:
        return self.settled_vm_pte_bytes if self.touched is None else self.touched.vm_pte_after_bytes


@dataclass
class _Sum:
    """Of what is known of the attached clients."""

    total_bytes: int = 0
    unknown: int = 0
    """How many of them could not be read, or tell nothing."""

    def change(self, size_bytes: int | None, sign: int) -> None:
        if size_bytes is None:
            self.unknown += sign
        else:
            self.total_bytes += sign * size_bytes

    @property
    def known_bytes(self) -> int | None:
        return None if self.unknown else self.total_bytes


@dataclass
class Roll:
    """The clients of one launcher."""

    dead: list[DeadClient] = field(default_factory=list)
    _alive: dict[int, Member] = field(default_factory=dict)
    _waiting: dict[int, Member] = field(default_factory=dict)
    _times_us: list[int] = field(default_factory=list)
    """To attach, of those that tell it; sorted."""
    _before: _Sum = field(default_factory=_Sum)
    _after: _Sum = field(default_factory=_Sum)

    @property
    def alive(self) -> Mapping[int, Member]:
        """By pid."""
        return self._alive

    @property
    def waiting(self) -> Mapping[int, Member]:
        """Those that are not attached yet, by pid: who was started first comes first."""
        return self._waiting

    @property
    def attached(self) -> int:
        """How many are."""
        return len(self._alive) - len(self._waiting)

    def numbers(self) -> set[int]:
        return {member.number for member in self._alive.values()}

    # -- what happens to them

    def add(self, member: Member) -> None:
        self._alive[member.pid] = member
        self._count(member, 1)

    def report(self, report: Report) -> None:
        """Take in what a client tells; one that is none of these is passed over."""
        member = self._alive.get(report.pid)
        if member is not None:
            self._count(member, -1)
            member.report = report
            self._count(member, 1)

    def settle(self, member: Member, vm_pte_bytes: int | None) -> None:
        """A program of the user's has lived for long enough; None for one that has just ended."""
        self._count(member, -1)
        member.settled_vm_pte_bytes = vm_pte_bytes
        self._count(member, 1)

    def remove(self, pid: int) -> Member | None:
        """Remove a client that was told to end; None for a process that was not a client."""
        member = self._alive.pop(pid, None)
        if member is not None:
            self._count(member, -1)
        return member

    def bury(self, pid: int, reason: str) -> Member | None:
        """Remove a client that ended by itself, and write down why; None for a process that was none."""
        member = self.remove(pid)
        if member is not None:
            self.dead.append(DeadClient(member.number, pid, reason))
        return member

    def _count(self, member: Member, sign: int) -> None:
        """Have the figures include a client, or with -1 no longer."""
        if not member.attached:
            if sign > 0:
                self._waiting[member.pid] = member
            else:
                del self._waiting[member.pid]
            return
        self._before.change(member.vm_pte_before_bytes, sign)
        self._after.change(member.vm_pte_after_bytes, sign)
        if member.touched is not None:
            place = bisect.bisect_left(self._times_us, member.touched.attach_us)
            if sign > 0:
                self._times_us.insert(place, member.touched.attach_us)
            else:
                del self._times_us[place]

    # -- figures over the attached clients. Programs of the user's tell nothing: None, not 0.

    def attach_ms_median(self) -> float | None:
        times_us, half = self._times_us, len(self._times_us) // 2
        if not times_us:
            return None
        if len(times_us) % 2:
            return times_us[half] / 1000
        return (times_us[half - 1] + times_us[half]) / 2 / 1000

    def attach_ms_max(self) -> float | None:
        return self._times_us[-1] / 1000 if self._times_us else None

    def vm_pte_before_bytes(self) -> int | None:
        """VmPTE of all before they mapped the region; None if one of them could not be read."""
        return self._before.known_bytes

    def vm_pte_after_bytes(self) -> int | None:
        """VmPTE of all, once they are attached."""
        return self._after.known_bytes
