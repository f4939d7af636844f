# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lean clients: each is the program mshare-client, which opens and maps the region by itself.

When the region changes, a new plan takes the place of the one that they have open.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection

from ..backends.pieces import Pieces
from ..preload import client as program
from ..preload.client import Plan, PlanFile, Site, Stage, Task, Written
from ..region.filling import ranges
from .client import Report, Target, Touched
from .spec import CLIENT_BYTES
from .status import Kind


class Lean:
    kind: Kind = "lean"
    why = None
    client_bytes = CLIENT_BYTES["lean"]

    def __init__(self, path: str, target: Target, report_fd: int) -> None:
        """Unavailable where such clients cannot attach a region like this one."""
        program.lookup(target.backend, target.name)
        self._path = path
        # A copy: every start would decode each variable.
        self._environment = dict(os.environ)
        self._report_fd = program.report_fd(report_fd)
        self._file = PlanFile()
        self._pieces: Pieces | None = None
        self._plan: Plan | None = None
        self._target = target

    @property
    def changes(self) -> int | None:
        return None if self._pieces is None else self._pieces.bell

    def prepare(self, target: Target, span_bytes: int, stride_bytes: int) -> None:
        if self._pieces is not None:
            self._pieces.close()
        file = target.backend.open(target.name, os.O_RDONLY)
        try:
            self._pieces = file.pieces()
            status = os.fstat(file.fd)
        finally:
            file.close()
        self._target = target
        touching = list(ranges(target.mappings, span_bytes))
        self._plan = Plan(
            Task.BE_CLIENT,
            Site.of(target.backend, target.name, target.window_bytes, target.address, status),
            touching,
            stride_bytes,
            _verified(target, touching),
            target.mappings[0].offset if target.mappings else None,
        )
        self._write()

    def _write(self) -> None:
        assert self._plan is not None, "it was prepared"
        self._file.store(self._plan, [] if self._pieces is None else self._pieces.current())

    def start(self, number: int) -> int:
        assert self._plan is not None, "it was prepared"
        words = (str(number), self._target.name)
        return program.start(self._path, words, self._environment, self._file.fd, self._report_fd)

    def reports(self, received: bytes) -> list[Report]:
        return [self._report(each) for each in program.reports(received)]

    def _report(self, report: program.Report) -> Report:
        if report.stage != Stage.DONE:
            return Report(report.pid, report.number, error=report.failure(self._target.path))
        return Report(
            report.pid,
            report.number,
            touched=Touched(
                attach_us=report.attach_ns // 1000,
                touch_us=report.touch_ns // 1000,
                vm_pte_before_bytes=report.vm_pte_before_bytes,
                vm_pte_after_bytes=report.vm_pte_after_bytes,
                verified_pages=report.verified_pages,
                wrong_pages=report.wrong_pages,
            ),
        )

    def tell(self, pids: Collection[int]) -> None:
        if self._pieces is None:
            return
        self._pieces.heard()
        self._write()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)


def _verified(target: Target, touching: list[program.Range]) -> Written | None:
    """As much of the owner's pattern as is in what they touch."""
    pattern = target.pattern
    for offset, size_bytes in touching:
        if pattern is not None and pattern.offset == offset:
            verified_bytes = min(size_bytes, pattern.span_bytes)
            return Written(offset, verified_bytes, pattern.stride_bytes, pattern.salt)
    return None
