# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that keeps one server in huge pages: its status file, and its main loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import __version__
from ..host import procfs
from ..services import status_file
from ..services.lock import locked
from ..services.notify import notify
from ..services.status_file import SCHEMA_VERSION, Role, Status
from .follow import follow
from .spec import KIND, FollowSpec

ROOT = "/collapse"
"""It belongs to no msharefs, by whose roots status files are sorted: they lie in a folder of this name."""


@dataclass(frozen=True)
class FollowerStatus(Status):
    """The status file of the process. `region` has its name."""

    target: str
    rate_bytes: int | None
    interval_seconds: float
    news: str | None
    """What came of the last collapse, or why there was none; None before the first look."""

    @property
    def spec(self) -> FollowSpec:
        """What it was started with."""
        return FollowSpec(self.target, self.rate_bytes, self.interval_seconds)


FOLLOWER = Role(KIND, FollowerStatus)


def starting(spec: FollowSpec, pid: int = 0) -> FollowerStatus:
    """What the status file says before the first look."""
    return FollowerStatus(
        schema_version=SCHEMA_VERSION,
        version=__version__,
        pid=pid,
        started_ticks=(procfs.start_ticks(pid) or 0) if pid else 0,
        state="starting",
        region=spec.name,
        root=ROOT,
        error=None,
        target=spec.target,
        rate_bytes=spec.rate_bytes,
        interval_seconds=spec.interval_seconds,
        news=None,
    )


def run(spec: FollowSpec, report: Callable[[str], None]) -> None:
    """Keep a server in huge pages until SIGTERM or SIGINT, and write down what came of it.

    `report` is given each sentence as well. Conflict while another process does the same.
    """
    over = threading.Event()
    status_path = status_file.file(ROOT, spec.name, FOLLOWER)
    with locked(status_file.file(ROOT, spec.name, FOLLOWER, "lock"), f"keeping {spec.target} in huge pages"):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: over.set())
        status = replace(starting(spec, os.getpid()), state="ready")
        status_file.write(status_path, status)
        notify(READY="1", STATUS=f"keeping {spec.target} in huge pages")

        def pass_on(sentence: str) -> None:
            status_file.write(status_path, replace(status, news=sentence))
            notify(STATUS=sentence)
            report(sentence)

        try:
            follow(spec.target, over.wait, pass_on, seconds=spec.interval_seconds, rate_bytes=spec.rate_bytes)
        finally:
            status_file.remove_own(ROOT, spec.name, FOLLOWER)
