# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes have a region mapped, no matter who started them: for a refusal that names them.

Found by the region's file in /proc/PID/maps, which shows it by device and inode whatever the path is in
that process's mount namespace. Reading maps of every process takes a while: only where something would end.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..backends import root as roots
from ..clients.status import CLIENTS, LauncherStatus
from ..errors import MshareError
from ..host import accounts, mounts, procfs
from ..host import processes as host_processes
from ..region.status import OWNER
from ..services import lock, status_file
from ..services.status_file import Role, S
from ..units import KIB, counted

_SHOWN = 10
_COMMAND_CHARACTERS = 60


@dataclass(frozen=True)
class Process:
    """A process that is attached, as far as it could be read."""

    pid: int
    command: str
    user: str
    unit: str | None
    """Its systemd unit, or else its cgroup, where it is not in the root."""

    def __str__(self) -> str:
        where = f", {self.unit}" if self.unit else ""
        return f"{self.pid} {self.command} (user {self.user}{where})"


def processes(root: str, name: str) -> list[Process]:
    """The processes that have a region mapped, and the clients of its launcher, by pid; not its owner."""
    # Read only: of the files of another version, just the pids of its own processes.
    launcher, owner = status_file.peek(root, name, CLIENTS), status_file.peek(root, name, OWNER)
    started = launcher.pids if isinstance(launcher, LauncherStatus) and launcher.alive else ()
    ours = {status.pid for status in (launcher, owner) if status is not None}
    pids = {*started, *_mapping(root, name)} - ours
    return [process for process in map(_process, sorted(pids)) if process is not None]


def strangers(root: str, name: str) -> list[Process]:
    """Those of `processes` that mshare did not start: neither clients, nor what their programs started."""
    leaders = {_leader(root, name, CLIENTS), _leader(root, name, OWNER)}
    return [process for process in processes(root, name) if not leaders & {*_lineage(process.pid)}]


def _leader(root: str, name: str, role: Role[S]) -> int | None:
    """The process of a role; behind a file that cannot be read, who holds its lock."""
    status = status_file.peek(root, name, role)
    pid = status.pid if status is not None else None
    return lock.holder(status_file.file(root, name, role, "lock")) if pid is None else pid


def _lineage(pid: int) -> Iterator[int]:
    """A process, those above it, and the leader of its session: that of a launcher that was killed."""
    with contextlib.suppress(OSError):
        yield os.getsid(pid)
    above: int | None = pid
    while above is not None and above > 0:
        yield above
        above = procfs.parent(above)


def unread(window_bytes: int | None) -> str | None:
    """A sentence where processes cannot be read of which one may have a region attached, so that it may be
    missing from all that is said here; None where there is none.

    Whoever has a region attached is larger than its window (None: not known, so every process may be).
    """
    who = "so whether one of them has the region attached is not known; run as root (become: true)"
    hidden = mounts.hidepid()
    if hidden is not None and not procfs.may_trace():
        return f"/proc hides the processes of other users (hidepid={hidden}), {who}"
    seen = host_processes.read_all()
    large = [process.pid for process in seen.processes if _size_bytes(process.status) >= (window_bytes or 0)]
    count = len(seen.missing) + sum(not _readable(pid) for pid in large)
    return f"{counted(count, 'process', 'processes')} could not be read, {who}" if count else None


def _size_bytes(status: bytes) -> int:
    """The address space of a process, by its status: everybody may read that."""
    size = re.search(rb"^VmSize:\s*(\d+) kB", status, re.M)
    return int(size[1]) * KIB if size else 0


def _readable(pid: int) -> bool:
    """Whether a process's maps can be read: what the file's mode says is only half of it."""
    try:
        os.close(os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        # It is gone.
        return True
    return True


def summary(attached: Iterable[Process]) -> str:
    """The first ten by name, and how many more there are."""
    listed = list(attached)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(map(str, listed[:_SHOWN])) + more


def _mapping(root: str, name: str) -> list[int]:
    try:
        device, inode = roots.mapped_file(root, name)
    except (MshareError, OSError):
        return []
    identity = f" {os.major(device):02x}:{os.minor(device):02x} {inode} "
    return [pid for pid in procfs.pids() if identity in procfs.maps(pid)]


def _process(pid: int) -> Process | None:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None
    program, *arguments = procfs.command(pid).split(" ")
    # On one line, whatever is in its arguments.
    command = " ".join(" ".join([os.path.basename(program), *arguments]).split())
    shown = command if len(command) <= _COMMAND_CHARACTERS else command[: _COMMAND_CHARACTERS - 1] + "…"
    return Process(pid, shown, accounts.user(uid), procfs.unit(pid))
