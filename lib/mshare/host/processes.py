# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One pass over /proc: what every process pays for page tables, and who it is.

VmPTE in /proc/PID/status costs some 20 µs and is world-readable, so it is read of every process;
everything else is read only of those that matter.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from ..units import KIB
from . import procfs

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Missing:
    """Something that could not be read."""

    pid: int | None
    what: str
    reason: str


class Vanished(Exception):
    """The process is gone: an answer, not an error."""


def opened(path: str) -> int:
    """A file of /proc, open for reading; Vanished for a process that is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError) as error:
        raise Vanished from error


def read(path: str) -> bytes:
    """A file of /proc, whole; Vanished for a process that is gone, PermissionError as it is."""
    fd = opened(path)
    try:
        first = os.read(fd, _CHUNK_BYTES)
        if not first:
            return first
        parts = [first]
        while True:
            part = os.read(fd, _CHUNK_BYTES)
            if not part:
                return b"".join(parts)
            parts.append(part)
    except ProcessLookupError as error:
        raise Vanished from error
    finally:
        os.close(fd)


def text(path: str) -> str:
    """As `read`, decoded as file names are."""
    return os.fsdecode(read(path))


class Process:
    """A process with memory of its own, by its /proc/PID/status; fields are looked for when asked."""

    __slots__ = ("_name", "_parent", "_status", "pid", "vm_pte_bytes")

    def __init__(self, pid: int, status: bytes, vm_pte_bytes: int) -> None:
        self.pid = pid
        self.vm_pte_bytes = vm_pte_bytes
        self._status = status
        self._name = ""
        self._parent = -1

    def _field(self, name: bytes) -> bytes:
        start = self._status.find(b"\n" + name + b":\t") + len(name) + 3
        return self._status[start : self._status.index(b"\n", start)]

    @property
    def name(self) -> str:
        """The command name, cut by the kernel to 15 bytes."""
        if not self._name:
            self._name = os.fsdecode(self._status[6 : self._status.index(b"\n")])
        return self._name

    @property
    def parent(self) -> int:
        if self._parent < 0:
            self._parent = int(self._field(b"PPid"))
        return self._parent

    @property
    def uid(self) -> int:
        return int(self._field(b"Uid").split()[0])

    @property
    def uids(self) -> set[int]:
        """Whose files it may read as its own: the real and the effective user."""
        return {int(uid) for uid in self._field(b"Uid").split()[:2]}

    @property
    def gids(self) -> set[int]:
        """Its groups."""
        return {int(gid) for gid in (self._field(b"Gid") + b" " + self._field(b"Groups")).split()}

    @property
    def threads(self) -> int:
        return int(self._field(b"Threads"))

    @property
    def thp_enabled(self) -> bool | None:
        """Whether it may have transparent huge pages; None on a kernel that does not tell (before 5.0)."""
        if b"\nTHP_enabled:\t" not in self._status:
            return None
        return self._field(b"THP_enabled") == b"1"

    def path(self, name: str) -> str:
        return f"/proc/{self.pid}/{name}"

    def link(self, name: str) -> str | None:
        """Where a link of /proc/PID leads; None if it may not be read or the process is gone."""
        try:
            return os.readlink(self.path(name))
        except OSError:
            return None

    @property
    def executable(self) -> str | None:
        return self.link("exe")

    def arguments(self) -> list[str]:
        """The command line, as far as it can be read."""
        try:
            return text(self.path("cmdline")).rstrip("\0").split("\0")
        except (Vanished, PermissionError):
            return []

    def environment(self) -> dict[str, str]:
        """What it was started with, as far as it can be read and the program left it there."""
        try:
            pairs = text(self.path("environ")).split("\0")
        except (Vanished, PermissionError):
            return {}
        return {name: value for name, __, value in (pair.partition("=") for pair in pairs if pair)}

    def cgroups(self) -> dict[str, str]:
        """Its paths by hierarchy, as /proc/PID/cgroup names them: "" is the unified one."""
        try:
            memberships = procfs.cgroups(text(self.path("cgroup")))
        except (Vanished, PermissionError):
            return {}
        return {cgroup.controllers: cgroup.path for cgroup in memberships}

    def cgroup(self) -> str | None:
        """The path in the unified hierarchy, or else in systemd's."""
        paths = self.cgroups()
        unified = paths.get("")
        return paths.get("name=systemd", unified) if unified in (None, "/") else unified

    def namespace(self, name: str) -> str | None:
        """A namespace it lives in, like pid:[4026531836]; None if it may not be read."""
        return self.link(f"ns/{name}")

    def setuid(self) -> bool:
        """Whether its program runs with the rights of another user."""
        try:
            return bool(os.stat(self.path("exe")).st_mode & 0o6000)
        except OSError:
            return False


@dataclass
class Pass:
    """The result of one pass over all processes."""

    processes: list[Process] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    vanished: int = 0


def read_all() -> Pass:
    """VmPTE of every process, without kernel threads and zombies, which have none."""
    result = Pass()
    processes = result.processes
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/status", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            result.vanished += 1
            continue
        except PermissionError:
            result.missing.append(missing(int(name), "status"))
            continue
        try:
            status = os.read(fd, _CHUNK_BYTES)
        except ProcessLookupError:
            result.vanished += 1
            continue
        finally:
            os.close(fd)
        start = status.find(b"\nVmPTE:")
        if start >= 0:
            size_bytes = int(status[start + 7 : status.index(b" kB", start)]) * KIB
            processes.append(Process(int(name), status, size_bytes))
    return result


def missing(pid: int | None, what: str, reason: str | None = None) -> Missing:
    """What could not be read; for want of permission, unless another reason is given."""
    if reason is None:
        # In a container's user namespace root may not look into every process.
        reason = "permission denied" if os.geteuid() == 0 else "permission denied; run as root"
    return Missing(pid, what, reason)


def unit(cgroup: str | None) -> str | None:
    """The systemd unit that a cgroup belongs to."""
    parts = (cgroup or "").split("/")
    return next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), None)


_CONTAINER_ID = re.compile(
    r"(?:^|[/-])(?:docker|libpod|cri-containerd|crio|containerd)?[-/]?([0-9a-f]{64})(?:\.scope)?(?:/|$)"
)
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_NAMED_CONTAINER = re.compile(
    r"/(?:lxc(?:\.payload)?[./]|machine\.slice/(?:machine-|systemd-nspawn@))"
    r"([^/]+?)(?:\.scope|\.service)?(?:/|$)"
)


def container(cgroup: str | None) -> str | None:
    """The container that a cgroup belongs to: pods and ids by their first 12 digits, others by name."""
    path = cgroup or ""
    pod, identity, named = _POD.search(path), _CONTAINER_ID.search(path), _NAMED_CONTAINER.search(path)
    parts = []
    if pod:
        parts.append(f"pod {pod[1].replace('_', '-')[:13]}")
    if identity:
        parts.append(f"container {identity[1][:12]}")
    elif named:
        parts.append(f"container {named[1]}")
    return " ".join(parts) or None
