# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the launcher of a region's clients writes down of itself and of them."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import sentence
from ..services import status_file
from ..services.status_file import Role, Status, beginning

Kind = Literal["lean", "python", "program"]
"""Of a launcher's clients."""
KINDS: dict[Kind, str] = {
    "lean": "the library's, in C",
    "python": "the library's, in Python",
    "program": "the program that was given",
}


@dataclass(frozen=True)
class DeadClient:
    """A client that ended before it was told to."""

    number: int
    pid: int
    reason: str


@dataclass(frozen=True)
class LauncherStatus(Status):
    """The launcher's status file. None is what is not known (yet), or what nobody measured."""

    # Its clients' command may hold passwords.
    FILE_MODE = 0o640

    spec: Mapping[str, object]
    """The normal form of what was asked for; see OwnerStatus.spec."""
    backend: str | None
    generation: str | None
    reloads: int
    """How often the spec was read again."""
    owner_alive: bool
    requested: int
    attached: int
    pids: tuple[int, ...]
    """Of the clients that live."""
    dead: tuple[DeadClient, ...]
    errors: tuple[str, ...]
    window_bytes: int | None
    mapped_bytes: int | None
    span_bytes: int
    """What each client touches; 0 for programs of the user's."""
    span_fitted: bool
    """Whether the span was fitted to the host's free memory."""
    stride_bytes: int
    attach_ms_median: float | None
    """To open, look up and map the region, by the clients' own clocks. Programs of the user's do not tell."""
    attach_ms_max: float | None
    vm_pte_before_bytes_sum: int | None
    """VmPTE of all attached clients before they mapped the region; a user's program is not measured then."""
    vm_pte_after_bytes_sum: int | None
    """VmPTE of the same clients, once they are attached."""
    host_page_tables_before_bytes: int | None
    """PageTables of /proc/meminfo before the first client was started."""
    host_page_tables_after_bytes: int | None
    client_kind: Kind | None = None
    """None: it is not known yet, or a launcher wrote this that knew only the latter two."""
    client_kind_reason: str | None = None
    """Why the clients are not lean ones, where they could be."""


CLIENTS = Role("clients", LauncherStatus, starts_programs=True)


class StatusFile:
    """The launcher's status file, which may have to wait for room on a full tmpfs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.current = True
        """Whether the last status could be written."""

    def store(self, status: LauncherStatus, required: bool) -> None:
        """Replace the file; later, unless `required`, where the tmpfs is full: no client ends for that."""
        try:
            status_file.write(self._path, status)
        except OSError as error:
            if required or error.errno != errno.ENOSPC:
                raise
            if self.current:
                with contextlib.suppress(OSError):
                    print(
                        f"{self._path} is not up to date: {sentence(error)}",
                        file=sys.stderr,
                        flush=True,
                    )
            self.current = False
        else:
            self.current = True


def starting(
    region: str, root: str, spec: Mapping[str, object], requested: int, stride_bytes: int
) -> LauncherStatus:
    """Of this process as a launcher that has not started anything yet."""
    return LauncherStatus(
        **beginning(region, root),
        spec=spec,
        backend=None,
        generation=None,
        reloads=0,
        owner_alive=True,
        requested=requested,
        attached=0,
        pids=(),
        dead=(),
        errors=(),
        window_bytes=None,
        mapped_bytes=None,
        span_bytes=0,
        span_fitted=False,
        stride_bytes=stride_bytes,
        attach_ms_median=None,
        attach_ms_max=None,
        vm_pte_before_bytes_sum=None,
        vm_pte_after_bytes_sum=None,
        host_page_tables_before_bytes=None,
        host_page_tables_after_bytes=None,
    )
