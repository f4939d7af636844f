# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that are forks of the launcher: Python's own, or those that become the user's program."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NoReturn

from .. import record
from ..services import signals
from . import client
from .client import Report, Target
from .spec import CLIENT_BYTES
from .status import Kind


class Forked:
    # They follow the region by themselves.
    changes = None

    def __init__(self, kind: Kind, why: str | None, command: tuple[str, ...], report_fd: int) -> None:
        self.kind = kind
        self.client_bytes = CLIENT_BYTES[kind]
        self.why = why
        self._command = command
        self._report_fd = report_fd
        self._target: Target | None = None
        self._span_bytes = self._stride_bytes = 0

    def prepare(self, target: Target, span_bytes: int, stride_bytes: int) -> None:
        self._target, self._span_bytes, self._stride_bytes = target, span_bytes, stride_bytes

    def start(self, number: int) -> int:
        launcher = client.Launcher(os.getpid(), self._report_fd)
        # What reached the child while it still had the launcher's handlers would be taken for the launcher's.
        with signals.held(client.CAUGHT):
            pid = os.fork()
            if pid == 0:
                self._be_client(number, launcher)
            return pid

    def _be_client(self, number: int, launcher: client.Launcher) -> NoReturn:
        try:
            assert self._target is not None, "it was prepared"
            if self._command:
                client.execute(self._target, number, self._command, launcher)
            client.run(self._target, number, self._span_bytes, self._stride_bytes, launcher)
        finally:
            # Whatever happens in a client, it must never come back into the launcher's code.
            os._exit(70)

    def reports(self, received: bytes) -> list[Report]:
        lines = received.splitlines()
        return [record.parse(Report, line, "a client's report", "start it again") for line in lines]

    def tell(self, pids: Collection[int]) -> None:
        pass
