# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of huge pages in a running process: a table of checks, each with the way out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import MshareError, Unavailable
from ..host import procfs
from ..host.processes import Process
from ..kernel import madvise
from ..units import format_size
from . import gates
from .ranges import Segment

_SHMEM_ENABLED = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
_NEXT_START = (
    "start the server with the preload, pages thp and prefault off, which places the segment so (`mshare run"
    " --pages thp --no-prefault`, or the role dbmem.mshare.postgresql)"
)


@dataclass(frozen=True)
class Subject:
    """A process, and the shared segments it has mapped."""

    process: Process
    segments: tuple[Segment, ...]

    @property
    def eligible(self) -> tuple[Segment, ...]:
        """The segments that the kernel can put into huge pages where they lie."""
        return tuple(
            segment
            for segment in self.segments
            if not gates.of_kind(segment.kind)
            and not gates.of_place(segment.mapping.start, segment.congruent)
        )

    @property
    def text(self) -> str:
        return f"process {self.process.pid} ({self.process.name})"


def _root(subject: Subject) -> Iterator[MshareError]:
    if os.geteuid() != 0:
        yield Unavailable(
            f"putting the memory of {subject.text} into huge pages needs root and this is uid"
            f" {os.geteuid()}; run as root (become: true)"
        )


def _kernel(subject: Subject | None = None) -> Iterator[MshareError]:
    reason = gates.of_kernel(os.uname().release, madvise.can_collapse())
    if reason:
        yield Unavailable(
            f"{reason}, and without it the memory of a running process cannot be put into huge pages; boot a"
            " newer kernel, or use hugetlb pages (`mshare plan`)"
        )


def _shmem(subject: Subject | None = None) -> Iterator[MshareError]:
    setting = re.search(r"\[(\w+)\]", procfs.read_line(_SHMEM_ENABLED) or "")
    reason = gates.of_setting(setting[1] if setting else None)
    if reason:
        yield Unavailable(f"{_SHMEM_ENABLED}: {reason}")


def _disabled(subject: Subject) -> Iterator[MshareError]:
    reason = gates.of_process(subject.process.thp_enabled)
    if reason:
        yield Unavailable(f"{subject.text}: {reason}")


def _something_to_do(subject: Subject) -> Iterator[MshareError]:
    if subject.eligible:
        return
    if not subject.segments:
        yield Unavailable(
            f"{subject.text} has no shared memory; name the pid of a server, as `mshare survey` shows it"
        )
        return
    largest = subject.segments[0]
    memory = f"the {format_size(largest.size_bytes)} of shared memory of {subject.text}"
    of_kind = gates.of_kind(largest.kind)
    if of_kind:
        yield Unavailable(f"{memory} stay as they are: {of_kind}; see `mshare plan` for what can be done")
    else:
        of_place = gates.of_place(largest.mapping.start, largest.congruent)
        yield Unavailable(f"{memory} stay as they are: {of_place}; at its next restart, {_NEXT_START}")


CHECKS: tuple[Callable[[Subject], Iterator[MshareError]], ...] = (
    _root,
    _something_to_do,
    _kernel,
    _shmem,
    _disabled,
)


def require_host() -> None:
    """Raise what keeps this host from putting any server's memory into huge pages."""
    for check in (_kernel, _shmem):
        for error in check():
            raise error


def require(subject: Subject) -> None:
    """Raise the first thing that stands in the way."""
    for check in CHECKS:
        for error in check(subject):
            raise error


def require_memory(subject: Subject, growth_bytes: int) -> None:
    """Raise for memory that the host does not have: huge pages fill what was not used within 2 MiB."""
    available_bytes = procfs.meminfo_bytes()["MemAvailable"]
    if growth_bytes > available_bytes:
        raise MshareError(
            f"huge pages for {subject.text} may take {format_size(growth_bytes)} more memory, for the parts"
            f" of each 2 MiB that are not in use yet, and this host has {format_size(available_bytes)}"
            " available; free some memory first"
        )
