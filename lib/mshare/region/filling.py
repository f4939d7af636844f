# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a region: touching its pages, or writing the owner's pattern to them.

A kernel lists nothing of what is mapped inside, and whoever may open a region may unmap; a file can be made
shorter, a tmpfs can be full. A touch of what is not there ends a process, so a child fills the region, and
says how far it is: the program mshare-client, or, where that cannot be had, a fork of this process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import resource
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..backends.base import Backend
from ..backends.mapping import Mapping
from ..errors import MshareError, Unavailable, sentence
from ..kernel import syscalls
from ..preload import client
from ..preload.client import Plan, PlanFile, Range, Report, Site, Stage, Task, Written
from ..printable import ending
from ..services import signals
from .pattern import Pattern, touch
from .region import Region

FATAL = (signal.SIGSEGV, signal.SIGBUS)
Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and with all of them."""
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""The signals that owners and launchers have handlers for."""
_NOTE = struct.Struct("=QQQ")
_PAGES_AT_ONCE = 512
_LOOK_SECONDS = 0.25
_REPORTS_BYTES = 1 << 16


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """The progress of a caller that shows none."""


@dataclass(frozen=True)
class Fault:
    """The first place whose touch ends a process."""

    offset: int
    number: signal.Signals

    def sentence(self, name: str) -> str:
        """For an error about region `name`."""
        if self.number == signal.SIGBUS:
            why = (
                "what is mapped there has no memory for it (SIGBUS): a file that was made shorter, or a full"
                " tmpfs; make room or the file as long as it was"
            )
        else:
            why = (
                "nothing is mapped there any more (SIGSEGV), though its owner wrote down that something is:"
                " another program unmapped it, or the owner just ended; map it again (`mshare map`), or"
                " create the region again"
            )
        return f"region {name} cannot be touched at offset {self.offset:#x}: {why}"


def ranges(mappings: Iterable[Mapping], span_bytes: int) -> Iterator[Range]:
    """The first `span_bytes` of what is mapped."""
    left_bytes = span_bytes
    for mapping in mappings:
        take_bytes = min(left_bytes, mapping.size_bytes)
        left_bytes -= take_bytes
        if take_bytes:
            yield mapping.offset, take_bytes


@dataclass(frozen=True)
class Place:
    """The region that is filled."""

    name: str
    backend: Backend
    window_bytes: int
    address: int | None
    """Where every process must attach; None where each may choose."""


class Filler:
    """Fills one region. Its methods return the fault that the child met; None where all was filled.

    They raise MshareError for a child that was killed, and OSError or MshareError where it cannot attach.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path: str | None = None
        self.why_python: str | None = None
        """Why the program in C does not do it, in a sentence; None where it does."""
        try:
            client.lookup(place.backend, place.name)
            self._path = client.program()
        except (Unavailable, OSError) as error:
            self.why_python = sentence(error)

    def touch_pages(
        self, wanted: Sequence[Range], stride_bytes: int, progress: Progress = no_progress
    ) -> Fault | None:
        """Read a byte of each stride: that makes a page present and does not change it."""
        if self._path is None:
            return _touch_in_python(self._place, wanted, stride_bytes, progress)
        return self._run(self._path, Task.TOUCH, wanted, stride_bytes, None, progress)

    def write_pattern(self, pattern: Pattern, progress: Progress = no_progress) -> Fault | None:
        """Write the owner's pattern."""
        if self._path is None:
            return _write_in_python(self._place, pattern, progress)
        written = Written(pattern.offset, pattern.span_bytes, pattern.stride_bytes, pattern.salt)
        return self._run(self._path, Task.WRITE_PATTERN, (), pattern.stride_bytes, written, progress)

    def _run(
        self,
        path: str,
        task: Task,
        wanted: Sequence[Range],
        stride_bytes: int,
        pattern: Written | None,
        progress: Progress,
    ) -> Fault | None:
        place = self._place
        total_bytes = pattern.size_bytes if pattern is not None else sum(size for __, size in wanted)
        with contextlib.ExitStack() as ends:
            file = place.backend.open(place.name, os.O_RDONLY)
            ends.callback(file.close)
            pieces = file.pieces()
            if pieces is not None:
                ends.callback(pieces.close)
            site = Site.of(place.backend, place.name, place.window_bytes, place.address, os.fstat(file.fd))
            plan_file = PlanFile()
            ends.callback(plan_file.close)
            plan = Plan(task, site, wanted, stride_bytes, pattern)
            plan_file.store(plan, [] if pieces is None else pieces.current())
            reports_fd, write_fd = os.pipe()
            ends.callback(os.close, reports_fd)
            with _closing(write_fd), _closing(client.report_fd(write_fd)) as program_fd:
                pid = client.start(path, ("0", place.name), dict(os.environ), plan_file.fd, program_fd)
            with _ending(pid) as ended:
                last = _followed(reports_fd, total_bytes, progress)
                code = ended()
        return self._judged(last, code)

    def _judged(self, last: Report | None, code: int) -> Fault | None:
        if last is not None and last.stage == Stage.DONE:
            return None
        if last is not None and last.stage == Stage.FAULT:
            return Fault(last.fault_offset, signal.Signals(last.code))
        if last is not None and last.stage != Stage.FILLING:
            raise MshareError(last.failure(self._place.backend.path(self._place.name)))
        raise _ended_early(self._place.name, code)


def _ended_early(name: str, code: int) -> MshareError:
    how = ending(code)
    return MshareError(
        f"the process that filled region {name} {how} before it was done; if that was the OOM killer (see"
        " dmesg, and the memory limits of the region and of this cgroup), raise the limit or fill less of it"
    )


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _ending(pid: int) -> Iterator[Callable[[], int]]:
    """A child that does not outlive the block: a function that waits for its end, and its exit code."""
    codes: list[int] = []

    def ended() -> int:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return codes[-1]

    try:
        yield ended
    finally:
        if not codes:
            os.kill(pid, signal.SIGKILL)
            ended()


def _followed(reports_fd: int, total_bytes: int, progress: Progress) -> Report | None:
    """The last report of the program, once it has closed the pipe."""
    last = None
    while received := os.read(reports_fd, _REPORTS_BYTES // client.REPORT_BYTES * client.REPORT_BYTES):
        last = client.reports(received)[-1]
        progress(last.filled_bytes, total_bytes)
    return last


# -- without the program


def _touch_in_python(
    place: Place, wanted: Sequence[Range], stride_bytes: int, progress: Progress
) -> Fault | None:
    pieces = _pieces(wanted, stride_bytes * _PAGES_AT_ONCE)
    works = [_touching(piece, stride_bytes) for piece in pieces]
    return _exactly(place, stride_bytes, _first_fatal(place, works, progress))


def _write_in_python(place: Place, pattern: Pattern, progress: Progress) -> Fault | None:
    works = [((part.start, part.stop - part.start), part.write) for part in pattern.parts()]
    return _exactly(place, pattern.stride_bytes, _first_fatal(place, works, progress))


_Work = tuple[Range, Callable[[memoryview], None]]
_Fatal = tuple[Range, signal.Signals]


def _touching(piece: Range, stride_bytes: int) -> _Work:
    offset, size_bytes = piece
    return piece, lambda memory: touch(memory, offset, size_bytes, stride_bytes)


def _exactly(place: Place, stride_bytes: int, fatal: _Fatal | None) -> Fault | None:
    """The page of a range in which a touch was fatal."""
    if fatal is None:
        return None
    found, number = fatal
    pages = [_touching(piece, stride_bytes) for piece in _pieces([found], stride_bytes)]
    exact = _first_fatal(place, pages, no_progress)
    return Fault(found[0], number) if exact is None else Fault(exact[0][0], exact[1])


def _pieces(whole: Iterable[Range], piece_bytes: int) -> Iterator[Range]:
    for offset, size_bytes in whole:
        for start in range(offset, offset + size_bytes, piece_bytes):
            yield start, min(piece_bytes, offset + size_bytes - start)


def _first_fatal(place: Place, works: Sequence[_Work], progress: Progress) -> _Fatal | None:
    """Where a child that does one after the other was ended by a fault."""
    total_bytes = sum(piece[1] for piece, __ in works)
    parent = os.getpid()
    with mmap.mmap(-1, mmap.PAGESIZE) as shared:
        note = _Note(shared)
        with signals.held(_HANDLED):
            pid = os.fork()
            if pid == 0:
                _work_in_child(place, works, note, parent)
        with _ending(pid) as ended:
            _watch(pid, lambda: progress(note.done_bytes, total_bytes))
            code = ended()
        if note.reason:
            raise MshareError(note.reason)
        if note.done_bytes == total_bytes:
            progress(total_bytes, total_bytes)
            return None
        if -code in FATAL:
            return note.current, signal.Signals(-code)
    raise _ended_early(place.name, code)


class _Note:
    """What a child tells until it may die: how far it is, and why it cannot go on."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared

    def tell(self, current: Range, done_bytes: int) -> None:
        _NOTE.pack_into(self._shared, 0, *current, done_bytes)

    @property
    def current(self) -> Range:
        offset, size_bytes, __ = _NOTE.unpack_from(self._shared)
        return offset, size_bytes

    @property
    def done_bytes(self) -> int:
        done_bytes: int = _NOTE.unpack_from(self._shared)[2]
        return done_bytes

    def fail(self, reason: str) -> None:
        text = reason.encode()[: len(self._shared) - _NOTE.size - 1]
        self._shared[_NOTE.size : _NOTE.size + len(text)] = text

    @property
    def reason(self) -> str:
        return self._shared[_NOTE.size :].rstrip(b"\0").decode(errors="replace")


def _watch(pid: int, look: Callable[[], None]) -> None:
    """Look again and again until a child ends."""
    with _closing(os.pidfd_open(pid)) as pidfd:
        while not select.select([pidfd], [], [], _LOOK_SECONDS)[0]:
            look()


def _work_in_child(place: Place, works: Sequence[_Work], note: _Note, parent: int) -> None:
    try:
        signals.leave(_HANDLED)
        syscalls.die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        # It may die, and nobody is to hear of it but the parent.
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            with Region.open(place.name, backend=place.backend) as region:
                memory = region.attach().memory
        except (MshareError, OSError) as error:
            note.fail(sentence(error))
            os._exit(1)
        done_bytes = 0
        for (offset, size_bytes), work in works:
            note.tell((offset, size_bytes), done_bytes)
            work(memory)
            done_bytes += size_bytes
        note.tell((0, 0), done_bytes)
        os._exit(0)
    finally:
        os._exit(1)
