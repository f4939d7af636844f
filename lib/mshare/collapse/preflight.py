# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of huge pages in a running process: a table of checks, each with the way out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import MshareError, Unavailable
from ..host import procfs
from ..host.processes import Process
from ..host.segments import SHMEM_KINDS
from ..kernel import madvise
from ..units import format_size
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
            segment for segment in self.segments if segment.kind in SHMEM_KINDS and segment.congruent
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
    if not madvise.can_collapse():
        yield Unavailable(
            f"kernel {os.uname().release} cannot put the memory of a running process into huge pages"
            " (MADV_COLLAPSE, Linux 6.1 with transparent huge pages); boot a newer kernel, or use"
            " hugetlb pages (`mshare plan`)"
        )


def _shmem(subject: Subject | None = None) -> Iterator[MshareError]:
    setting = procfs.read_line(_SHMEM_ENABLED) or ""
    if "[deny]" in setting:
        yield Unavailable(
            f"{_SHMEM_ENABLED} is deny, so this kernel makes no huge pages of shared memory; write never"
            " there, which leaves all other programs as they are"
        )


def _disabled(subject: Subject) -> Iterator[MshareError]:
    if subject.process.thp_enabled is False:
        yield Unavailable(
            f"{subject.text} was started with transparent huge pages disabled (THP_enabled is 0 in"
            f" /proc/{subject.process.pid}/status: prctl PR_SET_THP_DISABLE, or MemoryTHP= of its unit);"
            " allow them where the server is started, and restart it"
        )


def _something_to_do(subject: Subject) -> Iterator[MshareError]:
    if subject.eligible:
        return
    if not subject.segments:
        yield Unavailable(
            f"{subject.text} has no shared memory; name the pid of a server, as `mshare survey` shows it"
        )
        return
    largest = subject.segments[0]
    size = format_size(largest.size_bytes)
    if largest.kind in SHMEM_KINDS:
        yield Unavailable(
            f"the {size} of shared memory of {subject.text} begin at {largest.mapping.start:#x}, which is not"
            f" congruent to 2 MiB, so no huge page fits there; at its next restart, {_NEXT_START}"
        )
    else:
        yield Unavailable(
            f"the {size} of shared memory of {subject.text} are of kind {largest.kind}, whose pages cannot be"
            " changed while it runs; see `mshare plan` for what can be done"
        )


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
