# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is meant: by pid, by a data directory, by a systemd unit.

A pid names one run of a server; the other two name the server, also after it was started again.
"""

from __future__ import annotations

import os
import re

from ..errors import InvalidRequest, Unavailable
from ..host import processes
from ..host.processes import Process, Vanished

_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.(service|scope)\Z")
_PID_FILE = "postmaster.pid"


def find(target: str) -> Process:
    """The process whose memory is meant.

    `target` is a pid, the absolute path of a PostgreSQL data directory, or a unit like
    postgresql@15-main.service. Unavailable where nothing of the kind runs, InvalidRequest for any other
    text.
    """
    check(target)
    if target.isdigit():
        return _with_pid(int(target))
    if target.startswith("/"):
        return _of_directory(target)
    return _of_unit(target)


def check(target: str) -> None:
    """Raise InvalidRequest for a text that names no process, whatever runs."""
    if not (target.isdigit() or target.startswith("/") or _UNIT.match(target)):
        raise InvalidRequest(
            f"target {target!r} is neither a pid, nor an absolute data directory, nor a systemd unit; write"
            " it like 4711, /var/lib/postgresql/15/main or postgresql@15-main.service"
        )


def require_lasting(target: str) -> None:
    """Raise InvalidRequest for what does not name a server after its next restart, above all a pid."""
    if target.isdigit():
        raise InvalidRequest(
            f"target {target} is a pid, which a restart takes away; name the data directory or the systemd"
            " unit of the server"
        )
    check(target)


def _with_pid(pid: int) -> Process:
    process = next((process for process in processes.read_all().processes if process.pid == pid), None)
    if process is None:
        raise Unavailable(f"no process {pid} with memory of its own runs here; see `mshare survey` for pids")
    return process


def _of_directory(directory: str) -> Process:
    wanted = os.path.normpath(directory)
    leaders = []
    if os.path.lexists(os.path.join(wanted, _PID_FILE)):
        # A server refuses a directory that is not its own user's; others may stand in it all the same.
        owner = os.stat(wanted).st_uid
        leaders = [
            process
            for process in processes.read_all().processes
            if process.link("cwd") == wanted and process.uid == owner
        ]
    if not leaders:
        raise Unavailable(
            f"no PostgreSQL server runs in {directory}; start it, or name the pid of another server"
        )
    pids = {process.pid for process in leaders}
    # The backends have the directory as well; the postmaster is nobody's child among them.
    return next(process for process in leaders if process.parent not in pids)


def _of_unit(unit: str) -> Process:
    members = [
        process for process in processes.read_all().processes if processes.unit(_cgroup(process)) == unit
    ]
    if not members:
        raise Unavailable(f"no process of unit {unit} runs here; see `systemctl status {unit}`")
    pids = {process.pid for process in members}
    return next(process for process in members if process.parent not in pids)


def _cgroup(process: Process) -> str | None:
    try:
        return process.cgroup()
    except Vanished:
        return None
