# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the shared memory of a running server into huge pages, range by range.

The kernel does it while the server works (process_madvise with MADV_COLLAPSE): it copies 2 MiB into a
huge page and takes the page tables away from every process that has the range mapped. What is done stays
done, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import Unavailable
from ..host import procfs
from ..host.processes import Process
from ..kernel import madvise
from ..kernel.abi import HUGE_PAGE_BYTES, PAGE_BYTES
from ..units import counted, format_size
from . import preflight, ranges, target
from .preflight import Subject
from .ranges import Ranges
from .spec import SHARE, UNLIMITED

_PASSES = 3
"""A range whose pages are in use just now is tried again after the others."""
_RETRY = (errno.EAGAIN, errno.EBUSY)
_REASONS = {
    errno.ENOMEM: "no huge page was free, and the kernel could not make one (fragmented memory, or a limit)",
    errno.EAGAIN: "the pages were in use each time",
    errno.EBUSY: "the pages were in use each time",
    errno.EINVAL: "the kernel makes no huge pages there",
}


@dataclass(frozen=True)
class Figures:
    """Measured figures at one moment."""

    used_bytes: int
    """Whole ranges of 2 MiB that are in use."""
    huge_bytes: int
    """How much of that the process has in huge pages."""
    page_tables_bytes: int
    """VmPTE, sum over the processes that have the segments mapped."""
    processes: int
    """How many these are."""


@dataclass(frozen=True)
class Result:
    """What was done, or in a check run would be."""

    pid: int
    command: str
    segments: int
    check: bool
    before: Figures
    after: Figures
    collapsed_bytes: int
    """What was put into huge pages; in a check run, what there is to do."""
    left: dict[str, int] = field(default_factory=dict)
    """Reason -> bytes that stay in small pages."""
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        return self.collapsed_bytes > 0

    def to_dict(self) -> dict[str, object]:
        """For JSON and module results: sizes in bytes, all measured."""
        return {
            "changed": self.changed,
            "check": self.check,
            "pid": self.pid,
            "command": self.command,
            "segments": self.segments,
            "before": vars(self.before),
            "after": vars(self.after),
            "collapsed_bytes": self.collapsed_bytes,
            "left": [
                {"reason": reason, "size_bytes": size_bytes} for reason, size_bytes in self.left.items()
            ],
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        """For people; the verdict first."""
        used, huge = self.after.used_bytes, self.after.huge_bytes
        what = f"process {self.pid} ({self.command})"
        if self.check and self.changed:
            verdict = f"Would put {format_size(self.collapsed_bytes)} of {what} into huge pages."
        elif not used:
            verdict = f"Nothing to do: {what} has not touched its shared memory yet."
        elif not self.changed and not self.left:
            verdict = f"Nothing to do: {format_size(huge)} of {what} are in huge pages already."
        else:
            share = f"{100 * huge / used:.1f} % of the {format_size(used)} in use"
            verdict = f"{format_size(huge)} of {what} are in huge pages now: {share}."
        before, after = self.before.page_tables_bytes, self.after.page_tables_bytes
        tables = (
            f"Page tables of {counted(self.before.processes, 'process', 'processes')}: {format_size(before)}"
        )
        if not self.check and self.changed:
            tables += f" before, {format_size(after)} after"
        lines = [verdict, f"{tables} (measured: VmPTE)."]
        lines += [
            f"{format_size(size_bytes)} stay in small pages: {reason}."
            for reason, size_bytes in self.left.items()
        ]
        return lines


Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes to do."""


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """The progress of a caller that shows none."""


def collapse(
    text: str, *, rate_bytes: int | None = None, check: bool = False, progress: Progress = no_progress
) -> Result:
    """Put the shared memory of a running process, named as `target.find` takes it, into huge pages.

    At most `rate_bytes` in a second; None: for at most SHARE of the time; UNLIMITED: as fast as it goes.
    Raises what stands in the way before anything is changed.
    """
    subject = subject_of(target.find(text))
    preflight.require(subject)
    work = [(segment, ranges.users(segment)) for segment in subject.eligible]
    segment_ranges = [ranges.ranges(subject.process, segment, attached) for segment, attached in work]
    users = {process.pid for __, attached in work for process, _mapping in attached}
    before = _figures(segment_ranges, users)
    preflight.require_memory(subject, _growth_bytes(subject.process, segment_ranges))
    todo = [address for each in segment_ranges for address in each.small]
    if check or not todo:
        return _result(subject, check, before, before, len(todo) * HUGE_PAGE_BYTES)
    started = time.monotonic()
    failed = _collapse(subject.process, todo, rate_bytes, progress)
    seconds = time.monotonic() - started
    again = [ranges.ranges(subject.process, segment, attached) for segment, attached in work]
    done = (len(todo) - sum(failed.values())) * HUGE_PAGE_BYTES
    left: Counter[str] = Counter()
    for code, count in failed.items():
        left[_REASONS.get(code, os.strerror(code))] += count * HUGE_PAGE_BYTES
    return _result(subject, check, before, _figures(again, users), done, dict(left), seconds)


def subject_of(process: Process) -> Subject:
    """A process and its shared segments; Unavailable where this user has no permission."""
    try:
        return Subject(process, tuple(ranges.of(process)))
    except PermissionError:
        raise Unavailable(
            f"process {process.pid} ({process.name}) belongs to uid {process.uid}, and uid {os.geteuid()} may"
            " not look at its memory; run as root (become: true)"
        ) from None


def _result(
    subject: Subject,
    check: bool,
    before: Figures,
    after: Figures,
    collapsed_bytes: int,
    left: dict[str, int] | None = None,
    seconds: float = 0.0,
) -> Result:
    process = subject.process
    return Result(
        process.pid,
        process.name,
        len(subject.eligible),
        check,
        before,
        after,
        collapsed_bytes,
        left or {},
        seconds,
    )


def _figures(segment_ranges: list[Ranges], pids: set[int]) -> Figures:
    tables = [tables for tables in map(procfs.vm_pte_bytes, sorted(pids)) if tables is not None]
    return Figures(
        sum(each.used_bytes for each in segment_ranges),
        sum(each.huge_bytes for each in segment_ranges),
        sum(tables),
        len(tables),
    )


def _growth_bytes(process: Process, segment_ranges: list[Ranges]) -> int:
    """The most memory that huge pages can take beyond what is in use: all of a range but one page."""
    return sum(len(each.small) for each in segment_ranges) * (HUGE_PAGE_BYTES - PAGE_BYTES)


def _collapse(process: Process, todo: list[int], rate_bytes: int | None, progress: Progress) -> Counter[int]:
    """Errno -> how many ranges it stayed with."""
    total_bytes = len(todo) * HUGE_PAGE_BYTES
    failed: Counter[int] = Counter()
    done_bytes = 0
    pidfd = _opened(process)
    try:
        started = time.monotonic()
        for number in range(_PASSES):
            again: list[int] = []
            for address in todo:
                began = time.monotonic()
                code = _collapsed(pidfd, address)
                if rate_bytes is None:
                    time.sleep((time.monotonic() - began) * (1 / SHARE - 1))
                if code in _RETRY and number < _PASSES - 1:
                    again.append(address)
                    continue
                if code:
                    failed[code] += 1
                done_bytes += HUGE_PAGE_BYTES
                progress(done_bytes, total_bytes)
                if rate_bytes is not None and rate_bytes != UNLIMITED:
                    time.sleep(max(0.0, started + done_bytes / rate_bytes - time.monotonic()))
            todo = again
    finally:
        os.close(pidfd)
    return failed


def _opened(process: Process) -> int:
    try:
        return os.pidfd_open(process.pid)
    except ProcessLookupError:
        raise Unavailable(f"process {process.pid} has ended; name the server that runs now") from None


def _collapsed(pidfd: int, address: int) -> int:
    """0, or the errno with which a range stays as it is; Unavailable when the process has ended."""
    try:
        madvise.collapse(pidfd, address, HUGE_PAGE_BYTES)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise Unavailable(
                "the process ended meanwhile; run this again for the one that takes its place"
            ) from None
        if error.errno == errno.EPERM:
            raise
        return error.errno or errno.EINVAL
    return 0
