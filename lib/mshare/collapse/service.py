# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that keeps one server in huge pages: its spec file, its status file, and its main loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from .. import __version__, files, paths, record
from ..errors import InvalidRequest
from ..host import procfs
from ..services import status_file
from ..services.lock import locked
from ..services.notify import notify
from ..services.status_file import SCHEMA_VERSION, Role, Status
from . import target
from .follow import SECONDS, follow

KIND = "collapse"
"""Of its spec files: /etc/mshare/collapse."""
ROOT = "/collapse"
"""It belongs to no msharefs, by whose roots status files are sorted: they lie in a folder of this name."""
_NEXT_STEP = "set it up again with the module mshare_collapse (follow: true)"


@dataclass(frozen=True)
class FollowSpec:
    """Which server is kept in huge pages, and how."""

    target: str
    """A data directory or a systemd unit."""
    rate_bytes: int | None = None
    """At most so much in a second."""
    interval_seconds: float = SECONDS

    def __post_init__(self) -> None:
        target.require_lasting(self.target)
        if self.interval_seconds < 1:
            raise InvalidRequest(f"interval {self.interval_seconds:g} is too short; use 1 second or more")

    @property
    def name(self) -> str:
        """By which its files and its unit are called: one service per server."""
        return name_of(self.target)

    def to_json(self) -> str:
        """The text of its spec file."""
        comment = "Managed by dbmem.mshare; changes made here are overwritten."
        return record.to_json(self, comment=comment) + "\n"


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


def name_of(server: str) -> str:
    """The name of the service for a data directory or a unit."""
    return paths.escape(os.path.normpath(server) if server.startswith("/") else server)


def spec_file(server: str) -> str:
    return paths.spec_file(KIND, name_of(server))


def read_spec(path: str) -> FollowSpec:
    """A spec file; Malformed, or FileNotFoundError, with what to do."""
    text = files.read_text(path)
    if text is None:
        raise FileNotFoundError(2, os.strerror(2), path)
    return record.parse(FollowSpec, text, path, _NEXT_STEP)


def followed() -> list[str]:
    """The servers that are kept in huge pages, by the spec files."""
    folder = os.path.dirname(paths.spec_file(KIND, "any"))
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
    except OSError:
        return []
    return [read_spec(os.path.join(folder, name)).target for name in names]


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


def run(spec: FollowSpec, tell: Callable[[str], None]) -> None:
    """Keep a server in huge pages until SIGTERM or SIGINT, and write down what came of it.

    `tell` is given each sentence as well. Conflict while another process does the same.
    """
    over = threading.Event()
    status_path = status_file.file(ROOT, spec.name, FOLLOWER)
    with locked(status_file.file(ROOT, spec.name, FOLLOWER, "lock"), f"keeping {spec.target} in huge pages"):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: over.set())
        status = replace(starting(spec, os.getpid()), state="ready")
        status_file.write(status_path, status)
        notify(READY="1", STATUS=f"keeping {spec.target} in huge pages")

        def told(sentence: str) -> None:
            status_file.write(status_path, replace(status, news=sentence))
            notify(STATUS=sentence)
            tell(sentence)

        try:
            follow(spec.target, over.wait, told, seconds=spec.interval_seconds, rate_bytes=spec.rate_bytes)
        finally:
            status_file.remove_own(ROOT, spec.name, FOLLOWER)
