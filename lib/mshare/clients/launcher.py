# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher: one process that starts a number of clients, counts them and ends them.

Clients are forks of this warm process (an interpreter start each would cost 12 times the time and 3
times the memory), or run the user's program. A client that dies is reported, and restarted when asked
(SIGHUP): never silently.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import selectors
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .. import errors, files
from ..backends.connect import connect
from ..errors import InvalidRequest, MshareError
from ..host import procfs
from ..services import signals, status_file
from ..services.lock import locked
from ..services.notify import notify
from ..services.supervisor import CLIENTS, Progress, require_owner
from ..units import format_size
from . import client
from .span import fit_span
from .spec import ClientsSpec
from .status import of_launcher

_END_SECONDS = 10.0
_STATUS_SECONDS = 0.25
_SETTLE_LOOK_SECONDS = 0.05
_UNWRITTEN_SECONDS = 1.0
# The simulator's clients follow the end of an owner with a thread: give it time to.
_OWNER_END_SECONDS = 0.5


@dataclass
class _Client:
    number: int
    pid: int
    started: float
    report: dict[str, Any] | None = None
    """What it said of itself; None until then (a program of the user's says nothing)."""


@dataclass
class _Clients:
    """The book of who lives and who died."""

    alive: dict[int, _Client] = field(default_factory=dict)
    """By pid."""
    dead: list[dict[str, Any]] = field(default_factory=list)

    def attached(self) -> list[_Client]:
        return [one for one in self.alive.values() if one.report is not None and "error" not in one.report]


def run(
    read_spec: Callable[[], ClientsSpec],
    *,
    supervised: bool = True,
    on_ready: Progress = lambda status: None,
) -> None:
    """Run clients until SIGTERM or SIGINT; SIGHUP reads the spec again and starts what is missing.

    `on_ready` is called with the fields of the status file once the first clients are all attached.
    When it is `supervised`, the reason of a failure stays in the status file for whoever started it.

    Raises MshareError when the region has no living owner, or when a client fails at the first
    start: then none is left running.
    """
    spec = read_spec()
    backend = connect(spec.backend, spec.root)
    owner = require_owner(spec.region, backend.root)
    lock = status_file.file(backend.root, spec.region, CLIENTS, "lock")
    with locked(lock, f"the launching of clients of region {spec.region}"):
        launcher = _Launcher(read_spec, spec, client.Target.find(spec.region, backend), owner, on_ready)
        try:
            launcher.run()
        except (MshareError, OSError) as error:
            if supervised:
                launcher.write("failed", error=errors.to_dict(error))
            else:
                status_file.remove_own(launcher.status_path)
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
        owner: dict[str, Any],
        on_ready: Progress,
    ) -> None:
        self._read_spec = read_spec
        self._on_ready = on_ready
        self._spec = spec
        self._target = target
        self._clients = _Clients()
        self._errors: list[str] = []
        self._reloads = 0
        self._first_start = True
        self._owner_alive = True
        self._written = 0.0
        self._unwritten = False
        self.status_path = status_file.file(target.backend.root, spec.region, CLIENTS)
        self._span_bytes = 0
        self._page_tables_before_bytes = procfs.meminfo_bytes().get("PageTables", 0)
        self._reports, self._report_fd = os.pipe()
        self._signals = self._catch_signals()
        self._owner_pidfd = os.pidfd_open(owner["pid"])
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._reports, False)
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
            # Forks share what is not touched; the collector would touch every object once.
            gc.collect()
            gc.freeze()
            self.write("starting")
            self._fit()
            self._converge()
            while self._wait():
                pass
        finally:
            self._end(list(self._clients.alive.values()))

    def _fit(self) -> None:
        """Find the span for the number of clients that is wanted: one for all, or figures of theirs
        could not be added up. Clients that touched more than fits are ended, to start anew."""
        if not self._spec.touch or self._spec.command:
            return
        used_bytes = sum(procfs.vm_pte_bytes(pid) or 0 for pid in self._clients.alive)
        mapped_bytes = self._target.mapped_bytes
        if self._spec.span is not None and self._spec.span > mapped_bytes:
            raise InvalidRequest(
                f"clients cannot touch {format_size(self._spec.span)} of region {self._spec.region}, of which"
                f" {format_size(mapped_bytes)} are mapped; ask for a smaller span, or leave it out"
            )
        fitting_bytes = self._spec.span or fit_span(self._target, self._spec.count, used_bytes)
        if not self._clients.alive:
            self._span_bytes = fitting_bytes
        elif fitting_bytes < self._span_bytes:
            self._end(list(self._clients.alive.values()))
            self._span_bytes = fitting_bytes

    def _wait(self) -> bool:
        """Handle what happens next; False when it is time to end."""
        for key, __ in self._selector.select(self._patience()):
            if key.fd == self._reports:
                self._read_reports()
            elif key.fd == self._owner_pidfd:
                self._on_owner_end()
            elif not self._on_signals(os.read(self._signals, 4096)):
                return False
        self._settle()
        if self._first_start and self._errors:
            raise MshareError(self._failure())
        waiting = len(self._clients.alive) - len(self._clients.attached())
        if waiting:
            self._write_progress()
        else:
            self.write("ready")
            notify(READY="1", STATUS=self._said())
            if self._first_start:
                self._first_start = False
                self._on_ready(status_file.read(self.status_path) or {})
        return True

    def _patience(self) -> float | None:
        """How long to wait for something to happen."""
        if self._settling():
            return _SETTLE_LOOK_SECONDS
        return _UNWRITTEN_SECONDS if self._unwritten else None

    def _settling(self) -> bool:
        return bool(self._spec.command) and len(self._clients.attached()) < len(self._clients.alive)

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
        before = self._spec
        try:
            self._spec = self._read_spec()
            self._fit()
        except (MshareError, OSError) as error:
            # What runs goes on as it was.
            self._spec = before
            self._errors.append(errors.sentence(error))
        else:
            self._clients.dead.clear()
            self._converge()
        self._reloads += 1
        self._written = 0.0

    # -- clients

    def _converge(self) -> None:
        """Start the numbers that are missing, end those that are too many."""
        wanted = range(self._spec.count)
        running = {one.number for one in self._clients.alive.values()}
        self._end([one for one in self._clients.alive.values() if one.number not in wanted])
        for number in wanted:
            if number not in running:
                self._start(number)
                self._read_reports()
                self._write_progress()

    def _start(self, number: int) -> None:
        # What reached the child while it still had the launcher's handlers would be taken for the launcher's.
        with signals.held(client.CAUGHT):
            pid = os.fork()
            if pid == 0:
                self._be_client(number)
            self._clients.alive[pid] = _Client(number, pid, time.monotonic())

    def _be_client(self, number: int) -> NoReturn:
        try:
            if self._spec.command:
                client.execute(self._target, number, self._spec.command, self._report_fd)
            client.run(self._target, number, self._span_bytes, self._spec.stride, self._report_fd)
        finally:
            # Whatever happens in a client, it must never come back into the launcher's code.
            os._exit(70)

    def _read_reports(self) -> None:
        """Take in the reports there are. Each was written in one piece, so lines are whole."""
        by_number = {one.number: one for one in self._clients.alive.values()}
        while True:
            try:
                text = os.read(self._reports, 1 << 16)
            except BlockingIOError:
                return
            while not text.endswith(b"\n"):
                text += os.read(self._reports, 4096)
            for line in text.splitlines():
                report = json.loads(line)
                number = report.pop("number")
                if number in by_number:
                    by_number[number].report = report
                if "error" in report:
                    self._errors.append(f"client {number}: {report['error']}")
                elif report["wrong_pages"]:
                    self._errors.append(
                        f"client {number} found {report['wrong_pages']} of {report['verified_pages']} pages"
                        " without the owner's pattern"
                    )

    def _settle(self) -> None:
        """A program of the user's counts as attached once it has lived for the settling time."""
        if not self._spec.command:
            return
        due = time.monotonic() - self._spec.settle_seconds
        for one in self._clients.alive.values():
            if one.report is None and one.started <= due:
                one.report = {"vm_pte_after_bytes": procfs.vm_pte_bytes(one.pid) or 0}

    def _reap(self) -> None:
        self._read_reports()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            one = self._clients.alive.pop(pid, None)
            if one is not None:
                self._on_death(one, os.waitstatus_to_exitcode(status))

    def _on_death(self, one: _Client, code: int) -> None:
        said = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if not self._owner_alive:
            said += ", after the region's owner had ended"
        self._clients.dead.append({"number": one.number, "pid": one.pid, "reason": said})
        # For the journal. The launcher must not end because nobody reads this.
        with contextlib.suppress(OSError):
            print(f"client {one.number} (process {one.pid}) {said}", file=sys.stderr, flush=True)
        if one.report is None:
            self._errors.append(f"client {one.number} {said} before it was attached")
        self._written = 0.0

    def _on_owner_end(self) -> None:
        """Have every client of ours touch the region: what died with the owner is then known."""
        self._selector.unregister(self._owner_pidfd)
        self._owner_alive = False
        self._errors.append("the region's owner has ended")
        if not self._spec.command:
            time.sleep(_OWNER_END_SECONDS)
            for pid in self._clients.alive:
                os.kill(pid, signal.SIGUSR1)

    def _end(self, clients: list[_Client]) -> None:
        """SIGTERM, and SIGKILL for those that do not listen; returns when all are gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in clients:
                if one.pid in self._clients.alive:
                    self._signal(one.pid, number)
            deadline = time.monotonic() + _END_SECONDS
            while any(one.pid in self._clients.alive for one in clients) and time.monotonic() < deadline:
                for one in clients:
                    if one.pid in self._clients.alive and os.waitpid(one.pid, os.WNOHANG)[0]:
                        del self._clients.alive[one.pid]
                time.sleep(0.005)

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
        hint = "; run the command by hand to see what it says" if self._spec.command else ""
        return f"the clients of region {self._spec.region} did not start: {first}{more}{hint}"

    def _said(self) -> str:
        return f"{len(self._clients.attached())} of {self._spec.count} clients attached"

    def _write_progress(self) -> None:
        if time.monotonic() - self._written > _STATUS_SECONDS:
            self.write("starting")
            notify(STATUS=self._said(), EXTEND_TIMEOUT_USEC=str(60_000_000))

    def write(self, phase: str, **fields: Any) -> None:
        """Write the status file: figures over the clients that are attached now."""
        self._written = time.monotonic()
        reports = [one.report for one in self._clients.attached() if one.report is not None]
        attach_us = [report["attach_us"] for report in reports if "attach_us" in report] or [0]
        self._store(
            {
                **of_launcher(self._spec, self._target.backend.root),
                "pid": os.getpid(),
                "started_ticks": procfs.start_ticks(os.getpid()),
                "state": phase,
                "backend": self._target.backend.name,
                "generation": self._target.backend.generation.id,
                "reloads": self._reloads,
                "owner_alive": self._owner_alive,
                "attached": len(reports) if self._owner_alive else 0,
                "pids": sorted(self._clients.alive),
                "dead": self._clients.dead,
                "errors": self._errors,
                "window_bytes": self._target.window_bytes,
                "mapped_bytes": self._target.mapped_bytes,
                "span_bytes": self._span_bytes,
                "span_fitted": self._spec.span is None and 0 < self._span_bytes < self._target.mapped_bytes,
                "attach_ms_median": statistics.median(attach_us) / 1000,
                "attach_ms_max": max(attach_us) / 1000,
                "vm_pte_before_bytes_sum": sum(r.get("vm_pte_before_bytes", 0) for r in reports),
                "vm_pte_after_bytes_sum": sum(r.get("vm_pte_after_bytes", 0) for r in reports),
                "host_page_tables_before_bytes": self._page_tables_before_bytes,
                "host_page_tables_after_bytes": procfs.meminfo_bytes().get("PageTables", 0),
                **fields,
            }
        )

    def _store(self, fields: dict[str, Any]) -> None:
        """Replace the status file; where the tmpfs is full, later: no client ends for that."""
        try:
            status_file.write(self.status_path, fields)
        except OSError as error:
            if self._first_start or error.errno != errno.ENOSPC:
                raise
            if not self._unwritten:
                with contextlib.suppress(OSError):
                    print(
                        f"{self.status_path} is not up to date: {errors.sentence(error)}",
                        file=sys.stderr,
                        flush=True,
                    )
            self._unwritten = True
        else:
            self._unwritten = False
