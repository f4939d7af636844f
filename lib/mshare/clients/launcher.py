# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: one process that starts a number of clients, counts them and ends them.

Clients are lean programs in C, forks of this warm process where those cannot be had (docs/figures.md has
what each costs), or run the user's program. A client that dies is reported, and restarted only on request
(SIGHUP).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import errors, files
from ..backends.connect import connect
from ..errors import Failure, InvalidRequest, MshareError
from ..host import procfs
from ..kernel import syscalls
from ..printable import ending
from ..region.filling import FATAL, Fault, Filler, ranges
from ..region.status import OwnerStatus, require_owner
from ..services import signals, status_file, tree
from ..services.lock import locked
from ..services.notify import notify
from ..units import counted, format_size
from . import client, starter
from .roll import Member, Roll
from .span import next_span
from .spec import ClientsSpec
from .status import CLIENTS, LauncherStatus, StatusFile, starting

if TYPE_CHECKING:
    import psutil

_END_SECONDS, _END_POLL_SECONDS = 10.0, 0.005
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM)
"""What fork answers where there is no room for another process."""
_F_SETPIPE_SZ = 1031  # Python has its name since 3.10.
# A multiple of what a client writes, and of what the pipe is to hold.
_PIPE_BYTES = 1 << 20
_STATUS_SECONDS = 0.25
_REST = 9
"""Times what writing the status took, between two of them."""
_SETTLE_POLL_SECONDS = 0.05
_UNWRITTEN_SECONDS = 1.0
# The simulator's clients follow the end of an owner with a thread, which needs time on a busy machine.
_OWNER_END_SECONDS, _OWNER_END_TOUCHES = 0.5, 20


def run(
    read_spec: Callable[[], ClientsSpec],
    *,
    supervised: bool = True,
    on_ready: Callable[[LauncherStatus], None] = lambda status: None,
) -> None:
    """Run clients until SIGTERM or SIGINT; SIGHUP reads the spec again and starts what is missing.

    `on_ready` is called with the status once the first clients are all attached.
    When it is `supervised`, the reason for a failure stays in the status file, for the starting process.

    Raises MshareError when the region has no living owner, or when a client fails at the first
    start: then none is left running.
    """
    spec = read_spec()
    backend = connect(spec.backend, spec.root)
    owner = require_owner(spec.region, backend.root)
    lock = status_file.file(backend.root, spec.region, CLIENTS, "lock")
    with locked(lock, f"the launcher of region {spec.region}"):
        launcher = _Launcher(read_spec, spec, client.Target.find(spec.region, backend), owner, on_ready)
        try:
            launcher.run()
        except (MshareError, OSError) as error:
            if supervised:
                launcher.write("failed", Failure.of(error))
            else:
                status_file.remove_own(backend.root, spec.region, CLIENTS)
            raise
        else:
            files.remove(launcher.status_path)
        finally:
            files.remove(lock)


class _Launcher:
    def __init__(
        self,
        read_spec: Callable[[], ClientsSpec],
        spec: ClientsSpec,
        target: client.Target,
        owner: OwnerStatus,
        on_ready: Callable[[LauncherStatus], None],
    ) -> None:
        self._read_spec = read_spec
        self._on_ready = on_ready
        self._spec = spec
        self._target = target
        self._clients = Roll()
        self._errors: list[str] = []
        self._reloads = 0
        self._first_start = True
        self._owner_alive = True
        self._fault: Fault | None = None
        self._touches_left = 0
        self._written = 0.0
        self._writing_seconds = 0.0
        self._state = ""
        """In the status file."""
        self._news = False
        """Whether anything has happened that the status file does not say."""
        self._touched = 0.0
        self.status_path = status_file.file(target.backend.root, spec.region, CLIENTS)
        self._file = StatusFile(self.status_path)
        self._span_bytes = 0
        self._page_tables_before_bytes = procfs.meminfo_bytes().get("PageTables")
        self._reports, self._report_fd = os.pipe()
        self._starter: starter.Starter | None = None
        self._changes: int | None = None
        self._signals = self._catch_signals()
        self._owner_pidfd = os.pidfd_open(owner.pid)
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._reports, False)
        with contextlib.suppress(OSError):
            # So that clients seldom wait for it to be read.
            fcntl.fcntl(self._reports, _F_SETPIPE_SZ, _PIPE_BYTES)
        for fd in (self._reports, self._signals, self._owner_pidfd):
            self._selector.register(fd, selectors.EVENT_READ)

    @staticmethod
    def _catch_signals() -> int:
        # In this order: a handler without an inbox would swallow what comes in between.
        inbox = signals.inbox()
        for number in client.CAUGHT:
            signal.signal(number, lambda number, frame: None)
        return inbox

    # -- the loop

    def run(self) -> None:
        try:
            if self._spec.command:
                tree.require()
                # What a client's program leaves behind stays in this tree, and ends with it.
                syscalls.adopt_orphans()
            # Forks share what is not touched; the collector would touch every object once.
            gc.collect()
            gc.freeze()
            self.write("starting")
            self._starter = starter.choose(self._spec, self._target, self._report_fd)
            self._fit()
            self._converge()
            # The reports may have come while they were started, and then there is nothing to wait for.
            self._tell()
            while self._wait():
                pass
        finally:
            self._end(list(self._clients.alive.values()))

    def _fit(self) -> None:
        """Find the span for the number of clients that is wanted: one for all, or figures of theirs
        could not be added up. Clients that touched more than fits are ended and started again."""
        if self._spec.touch and not self._spec.command:
            self._fit_span()
        if self._changes is not None:
            self._selector.unregister(self._changes)
        self._starting().prepare(self._target, self._span_bytes, self._spec.stride_bytes)
        self._changes = self._starting().changes
        if self._changes is not None:
            self._selector.register(self._changes, selectors.EVENT_READ)

    def _starting(self) -> starter.Starter:
        assert self._starter is not None, "it runs"
        return self._starter

    def _fit_span(self) -> None:
        used_bytes = sum(procfs.vm_pte_bytes(pid) or 0 for pid in self._clients.alive)
        mapped_bytes = self._target.mapped_bytes
        if not mapped_bytes:
            raise MshareError(
                f"nothing is known to be mapped in region {self._spec.region}, so its clients cannot touch"
                " anything; map something (`mshare map`), or start them with touch: false (--no-touch)"
            )
        if self._spec.span_bytes is not None and self._spec.span_bytes > mapped_bytes:
            raise InvalidRequest(
                f"clients cannot touch {format_size(self._spec.span_bytes)} of region {self._spec.region}, of"
                f" which {format_size(mapped_bytes)} are mapped; ask for a smaller span, or omit it"
            )
        alive = len(self._clients.alive)
        span_bytes = next_span(
            self._target,
            self._spec.span_bytes,
            self._spec.count,
            alive,
            self._span_bytes,
            used_bytes,
            self._starting().client_bytes,
        )
        if alive and span_bytes < self._span_bytes:
            self._end(list(self._clients.alive.values()))
        self._span_bytes = span_bytes

    def _wait(self) -> bool:
        """Handle what happens next; False when it is time to end."""
        events = self._selector.select(self._patience())
        self._news = self._news or bool(events)
        if self._touches_left and time.monotonic() - self._touched >= _OWNER_END_SECONDS:
            self._touches_left -= 1
            self._touched = time.monotonic()
            for pid in self._clients.alive:
                os.kill(pid, signal.SIGUSR1)
                # One that somebody stopped would be counted as attached, to a region that is gone.
                os.kill(pid, signal.SIGCONT)
        for key, __ in events:
            if key.fd == self._reports:
                self._read_reports()
            elif key.fd == self._owner_pidfd:
                self._on_owner_end()
            elif key.fd == self._changes:
                self._starting().tell(self._clients.alive)
            elif not self._on_signals(os.read(self._signals, 4096)):
                return False
        self._tell()
        return True

    def _tell(self) -> None:
        """Say how far it is. Raises MshareError if the first start failed."""
        self._settle()
        if self._first_start and self._errors:
            raise MshareError(self._failure())
        if self._clients.waiting:
            self._write_progress()
        elif self._state != "ready" or not self._file.current or (self._news and self._rested() >= 0):
            status = self.write("ready")
            notify(READY="1", STATUS=self._summary())
            if self._first_start:
                self._first_start = False
                self._on_ready(status)

    def _patience(self) -> float | None:
        """How long to wait for something to happen."""
        waits = []
        if self._settling():
            waits.append(_SETTLE_POLL_SECONDS)
        if self._touches_left and self._clients.alive:
            waits.append(max(0.0, self._touched + _OWNER_END_SECONDS - time.monotonic()))
        if not self._file.current:
            waits.append(_UNWRITTEN_SECONDS)
        elif self._news and not self._clients.waiting:
            waits.append(max(0.0, -self._rested()))
        return min(waits, default=None)

    def _settling(self) -> bool:
        return bool(self._spec.command) and bool(self._clients.waiting)

    def _rested(self) -> float:
        """Seconds since the status file may be written again. With thousands of clients that takes a while,
        and they may end one after the other: it is written for many of them then."""
        return time.monotonic() - self._written - _REST * self._writing_seconds

    def _on_signals(self, numbers: bytes) -> bool:
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            return False
        # The children first: what died before the request is to be restarted by it.
        self._reap()
        if signal.SIGHUP in numbers:
            self._reload()
        return True

    def _reload(self) -> None:
        self._errors.clear()
        self._fault = None
        # What is mapped in a kernel's region may have changed.
        self._target = client.Target.find(self._spec.region, self._target.backend)
        before, dead, running = self._spec, [*self._clients.dead], {*self._clients.alive}
        try:
            self._spec = self._read_spec()
            self._fit()
            self._clients.dead.clear()
            self._converge()
        except (MshareError, OSError) as error:
            # Running clients stay as they are, and nothing half-done is added to them.
            self._end([member for pid, member in self._clients.alive.items() if pid not in running])
            self._spec = before
            self._clients.dead = dead
            self._errors.append(errors.sentence(error))
        self._reloads += 1
        self._written = 0.0

    # -- clients

    def _converge(self) -> None:
        """Start the numbers that are missing, end those that are too many."""
        wanted = range(self._spec.count)
        running = self._clients.numbers()
        self._end([member for member in self._clients.alive.values() if member.number not in wanted])
        for number in wanted:
            if number not in running:
                self._start(number)
                self._read_reports()
                self._write_progress()

    def _start(self, number: int) -> None:
        try:
            pid = self._starting().start(number)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise MshareError(
                f"client {number} of region {self._spec.region} cannot be started beside the"
                f" {len(self._clients.alive):,} that run ({errno.errorcode[error.errno]}): there is no room"
                " for another process (memory, kernel.pid_max, kernel.threads-max, RLIMIT_NPROC, pids.max of"
                " a cgroup); raise the limit that was reached, or ask for fewer clients"
            ) from error
        self._clients.add(Member(number, pid, time.monotonic()))

    def _read_reports(self) -> None:
        """Take in the reports there are. Each was written as a whole, so they are complete."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for report in self._starting().reports(os.read(self._reports, _PIPE_BYTES)):
                    self._take_in(report)

    def _take_in(self, report: client.Report) -> None:
        self._clients.report(report)
        if report.error is not None:
            self._errors.append(f"client {report.number}: {report.error}")
        elif report.touched is not None and report.touched.wrong_pages:
            touched = report.touched
            self._errors.append(
                f"client {report.number} did not find the owner's pattern in {touched.wrong_pages} of"
                f" {counted(touched.verified_pages, 'page')}"
            )

    def _settle(self) -> None:
        """A program of the user's counts as attached once it has lived for the settling time."""
        if not self._spec.command:
            return
        due = time.monotonic() - self._spec.settle_seconds
        lived = []
        for member in self._clients.waiting.values():
            if member.started > due:
                break
            lived.append(member)
        for member in lived:
            if member.report is None:
                self._clients.settle(member, procfs.vm_pte_bytes(member.pid))

    def _reap(self) -> None:
        self._read_reports()
        for pid, status in _ended():
            self._on_death(pid, os.waitstatus_to_exitcode(status))

    def _on_death(self, pid: int, code: int) -> None:
        reason = ending(code)
        if not self._owner_alive:
            reason += ", after the region's owner had ended"
        member = self._clients.bury(pid, reason)
        if member is None:
            return
        # For the journal. The launcher must not end because nobody reads this.
        with contextlib.suppress(OSError):
            print(f"client {member.number} (process {pid}) {reason}", file=sys.stderr, flush=True)
        if member.report is None and member.settled_vm_pte_bytes is None:
            self._errors.append(f"client {member.number} {reason} before it was attached{self._why(code)}")

    def _why(self, code: int) -> str:
        """Of a client of ours that died of a touch: where that was; an empty text for all others."""
        if self._spec.command or not self._owner_alive or -code not in FATAL:
            return ""
        # One for all of them: they touch the same.
        if self._fault is None:
            touched = list(ranges(self._target.mappings, self._span_bytes))
            # Whoever cannot attach it either finds no place.
            with contextlib.suppress(MshareError, OSError):
                self._fault = Filler(self._target.place()).touch_pages(touched, self._spec.stride_bytes)
        return "" if self._fault is None else f": {self._fault.sentence(self._spec.region)}"

    def _on_owner_end(self) -> None:
        """Have each of the library's clients touch the region, to find those that died with the owner."""
        self._selector.unregister(self._owner_pidfd)
        self._owner_alive = False
        self._errors.append("the region's owner has ended")
        self._starting().tell(self._clients.alive)
        if not self._spec.command:
            self._touches_left, self._touched = _OWNER_END_TOUCHES, time.monotonic()

    def _end(self, clients: list[Member]) -> None:
        """SIGTERM, and SIGKILL for those that do not listen; returns when they and theirs are gone."""
        started = self._started_by(clients)
        ending = {member.pid for member in clients} & self._clients.alive.keys()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in ending:
                self._signal(pid, number)
            deadline = time.monotonic() + _END_SECONDS
            while ending and time.monotonic() < deadline:
                for pid, status in _ended():
                    if pid in ending:
                        ending.remove(pid)
                        self._clients.remove(pid)
                    else:
                        self._on_death(pid, os.waitstatus_to_exitcode(status))
                time.sleep(_END_POLL_SECONDS)
        tree.end(started, _END_SECONDS)

    def _started_by(self, clients: list[Member]) -> list[psutil.Process]:
        """What programs of the user's have started; when all are to end, also what they have left behind."""
        if not self._spec.command or not clients:
            return []
        ending = {member.pid for member in clients}
        if ending == set(self._clients.alive):
            return [process for process in tree.descendants(os.getpid()) if process.pid not in ending]
        return [process for pid in ending for process in tree.descendants(pid)]

    def _signal(self, pid: int, number: int) -> None:
        # A program of the user's leads a process group: what it started ends with it.
        if self._spec.command:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        else:
            os.kill(pid, number)

    # -- the report

    def _failure(self) -> str:
        first = self._errors[0]
        more = f" ({len(self._errors) - 1} more failed)" if len(self._errors) > 1 else ""
        hint = "; run the command by hand to see its messages" if self._spec.command else ""
        return f"the clients of region {self._spec.region} did not start: {first}{more}{hint}"

    def _summary(self) -> str:
        return f"{self._clients.attached} of {counted(self._spec.count, 'client')} attached"

    def _write_progress(self) -> None:
        # With thousands of clients writing takes a while, which is better used to start them.
        if time.monotonic() - self._written > max(_STATUS_SECONDS, _REST * self._writing_seconds):
            self.write("starting")
            notify(STATUS=self._summary(), EXTEND_TIMEOUT_USEC=str(60_000_000))

    def write(self, state: str, failure: Failure | None = None) -> LauncherStatus:
        """Write the status file: figures over the clients that are attached now."""
        self._state, self._news = state, False
        self._written, began = time.monotonic(), time.process_time()
        spec, target, clients = self._spec, self._target, self._clients
        root = target.backend.root
        status = replace(
            starting(spec.region, root, spec.to_dict(), spec.count, spec.stride_bytes),
            state=state,
            error=failure,
            backend=target.backend.name,
            generation=target.backend.generation.id,
            reloads=self._reloads,
            owner_alive=self._owner_alive,
            attached=clients.attached if self._owner_alive else 0,
            pids=tuple(sorted(clients.alive)),
            dead=tuple(clients.dead),
            errors=tuple(self._errors),
            window_bytes=target.window_bytes,
            mapped_bytes=target.mapped_bytes,
            span_bytes=self._span_bytes,
            span_fitted=spec.span_bytes is None and 0 < self._span_bytes < target.mapped_bytes,
            attach_ms_median=clients.attach_ms_median(),
            attach_ms_max=clients.attach_ms_max(),
            vm_pte_before_bytes_sum=clients.vm_pte_before_bytes(),
            vm_pte_after_bytes_sum=clients.vm_pte_after_bytes(),
            host_page_tables_before_bytes=self._page_tables_before_bytes,
            host_page_tables_after_bytes=procfs.meminfo_bytes().get("PageTables"),
            client_kind=self._starter.kind if self._starter is not None else None,
            client_kind_reason=self._starter.why if self._starter is not None else None,
        )
        self._file.store(status, required=self._first_start)
        self._writing_seconds = time.process_time() - began
        return status


def _ended() -> Iterator[tuple[int, int]]:
    """The children that have ended, with their wait status: each once."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, status
