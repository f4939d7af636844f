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
import resource
from dataclasses import dataclass, field
from functools import lru_cache

from ..units import KIB
from . import procfs

_STATUS_BYTES = 1 << 12
_SIZE_BYTES = 26
"""What "VmSize:" and its number take at most; the next line begins in it."""
_PMD = b"\nVmPMD:"
"""Linux 4.0 to 4.14 have PMD tables in a line of their own, after that of VmPTE. Later, VmPTE has them."""
_TITLE_BYTES = 1 << 10
_LINES_KEPT = 1 << 10
_READ = os.O_RDONLY | os.O_CLOEXEC
_FILES_LEFT = 256
"""Descriptors that stay free for everything else."""
_FILES_MOST = 1 << 13


@dataclass(frozen=True)
class Missing:
    """Something that could not be read."""

    pid: int | None
    what: str
    reason: str


class Vanished(Exception):
    """The process is gone: an answer, not an error."""


_NOT_THERE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)
"""What the kernel answers of a process that is gone."""
_GONE = (Vanished, *_NOT_THERE)


def opened(path: str) -> int:
    """A file of /proc, open for reading; Vanished for a process that is gone."""
    try:
        return os.open(path, _READ)
    except _NOT_THERE as error:
        raise Vanished from error


def read(path: str) -> bytes:
    """A file of /proc, whole; Vanished for a process that is gone, PermissionError as it is."""
    try:
        return procfs.content(path)
    except _NOT_THERE as error:
        raise Vanished from error


def text(path: str) -> str:
    """As `read`, decoded as file names are."""
    return os.fsdecode(read(path))


class Process:
    """A process with memory of its own, by its /proc/PID/status; most fields are parsed on demand."""

    __slots__ = ("name", "parent", "pid", "status", "vm_pte_bytes")

    def __init__(self, pid: int, status: bytes, vm_pte_bytes: int) -> None:
        self.pid = pid
        self.status = status
        self.vm_pte_bytes = vm_pte_bytes
        self.name = status[6 : status.find(b"\n")].decode("utf-8", "surrogateescape")
        """The command name, cut by the kernel to 15 bytes."""
        start = status.find(b"\nPPid:\t") + 7
        self.parent = int(status[start : status.find(b"\n", start)] or 0)

    def _field(self, name: bytes) -> bytes:
        start = self.status.find(b"\n" + name + b":\t") + len(name) + 3
        return self.status[start : self.status.index(b"\n", start)]

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
        start = self.status.find(b"\nThreads:\t") + 10
        return 1 if self.status.startswith(b"1\n", start) else int(self._field(b"Threads"))

    @property
    def thp_enabled(self) -> bool | None:
        """Whether it may have transparent huge pages; None on a kernel that does not tell (before 5.0)."""
        if b"\nTHP_enabled:\t" not in self.status:
            return None
        return self._field(b"THP_enabled") == b"1"

    def other_kib(self) -> int:
        """What it has mapped that is neither private and writable, nor code, nor stack.

        These are its shared mappings, and what it has of read-only files. Forks of one parent differ in it
        as soon as one maps something shared that the others do not have.
        """
        status = self.status
        size, data = status.find(b"\nVmSize:"), status.find(b"\nVmData:")
        return _other_kib(status[size : size + _SIZE_BYTES], status[data : status.find(b"\nVmPTE:", data)])

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

    def title(self) -> str:
        """The beginning of the command line, over which servers write what a process does."""
        try:
            fd = os.open(self.path("cmdline"), _READ)
            try:
                return os.fsdecode(os.read(fd, _TITLE_BYTES)).rstrip("\0").replace("\0", " ")
            finally:
                os.close(fd)
        except OSError:
            return ""

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
        """The path in the unified hierarchy, or else in systemd's, or else whichever names a container.

        Where cgroups of both versions are in use, Docker puts a container into those of version 1 only, and
        its processes stay in the unified cgroup of containerd.service.
        """
        paths = self.cgroups()
        unified = paths.get("")
        usual = paths.get("name=systemd", unified) if unified in (None, "/") else unified
        if len(paths) < 2 or container(usual) is not None:
            return usual
        return next((path for path in paths.values() if container(path) is not None), usual)

    def namespace(self, name: str) -> str | None:
        """A namespace it lives in, like pid:[4026531836]; None if it may not be read."""
        return self.link(f"ns/{name}")

    def setuid(self) -> bool:
        """Whether its program runs with the rights of another user."""
        try:
            return bool(os.stat(self.path("exe")).st_mode & 0o6000)
        except OSError:
            return False


@lru_cache(maxsize=_LINES_KEPT)
def _other_kib(size: bytes, rest: bytes) -> int:
    """From VmSize, and from VmData, VmStk, VmExe and VmLib, which follow each other.

    Most processes have the very lines of another.
    """
    # A name, a number and a unit each.
    words = rest.split()
    return int(size.split()[1]) - int(words[1]) - int(words[4]) - int(words[7]) - int(words[10])


@dataclass
class Pass:
    """The result of one pass over all processes."""

    processes: list[Process] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    vanished: int = 0


def of_pid(pid: int) -> Process:
    """One process, whatever memory it has; Vanished for one that is gone."""
    return Process(pid, read(f"/proc/{pid}/status"), 0)


def read_all() -> Pass:
    """VmPTE of every process, without kernel threads and zombies, which have none."""
    result = Pass()
    add = result.processes.append
    # Where a survey spends most of its time: not a call more than the kernel's.
    open_file, read_file, close_file = os.open, os.read, os.close
    for name in _names():
        try:
            fd = open_file(f"/proc/{name}/status", _READ)
            try:
                status = read_file(fd, _STATUS_BYTES)
            finally:
                close_file(fd)
            if len(status) == _STATUS_BYTES:
                # A member of hundreds of groups.
                status = read(f"/proc/{name}/status")
        except _GONE:
            result.vanished += 1
        except PermissionError:
            result.missing.append(missing(int(name), "status"))
        else:
            process = _process(name, status)
            if process is not None:
                add(process)
    return result


def _names() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _process(name: str, status: bytes) -> Process | None:
    """A process by the name of its folder and its status; None for one without memory of its own."""
    start = status.find(b"\nVmPTE:")
    if start < 0:
        return None
    end = status.find(b" kB", start)
    kib = int(status[start + 7 : end])
    if status.startswith(_PMD, end + 3):
        start = end + 3 + len(_PMD)
        kib += int(status[start : status.find(b" kB", start)])
    return Process(int(name), status, kib * KIB)


class Passes:
    """Passes over all processes one after the other.

    A process that has not run since the pass before is the very object again. The files stay open between
    passes, as many as the limit allows: an open file belongs to the very process, which another
    with its pid is not, and reading it again takes half the time of opening it.
    """

    def __init__(self) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._files_maximum = max(0, min(_FILES_MOST, soft - _FILES_LEFT))
        self._files: dict[str, int] = {}
        self._resting: dict[str, Process] = {}
        self._buffer = bytearray(_STATUS_BYTES)

    def close(self) -> None:
        """Close the files that have stayed open."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def read_all(self) -> Pass:
        """VmPTE of every process, without kernel threads and zombies, which have none."""
        result = Pass()
        before, self._resting = self._resting, {}
        names = _names()
        for name in self._files.keys() - set(names):
            os.close(self._files.pop(name))
        # As in `read_all`.
        add, keep, buffer = result.processes.append, self._resting.__setitem__, self._buffer
        for name in names:
            try:
                length = self._read(name)
            except _GONE:
                result.vanished += 1
                continue
            except PermissionError:
                result.missing.append(missing(int(name), "status"))
                continue
            process = before.get(name)
            if process is not None and length == len(process.status) and buffer.startswith(process.status):
                add(process)
                keep(name, process)
                continue
            status = bytes(buffer[:length])
            if process is None or not has_not_run(process.status, status):
                process = _process(name, status)
            if process is not None:
                add(process)
                if rests(status):
                    keep(name, process)
        return result

    def _read(self, name: str) -> int:
        """Read a status to the beginning of the buffer; how long it is."""
        fd = self._files.get(name)
        if fd is not None:
            try:
                return self._read_from(fd)
            except ProcessLookupError:
                # It is gone; another may have its pid.
                os.close(self._files.pop(name))
        fd = os.open(f"/proc/{name}/status", _READ)
        if len(self._files) < self._files_maximum:
            self._files[name] = fd
            return self._read_from(fd)
        try:
            return self._read_from(fd)
        finally:
            os.close(fd)

    def _read_from(self, fd: int) -> int:
        length = os.preadv(fd, [self._buffer], 0)
        while length == len(self._buffer):
            # A member of thousands of groups.
            self._buffer.extend(bytes(length))
            length = os.preadv(fd, [self._buffer], 0)
        return length


def rests(status: bytes) -> bool:
    """Whether the counts of a process tell when it has run since.

    One that runs is counted only when it is switched away from, and of several threads only the first is.
    """
    return b"\nThreads:\t1\n" in status and b"\nState:\tR" not in status


def has_not_run(before: bytes, now: bytes) -> bool:
    """Whether a process that rested cannot have changed its memory since, nor be another: by its status.

    Every field is the same: its name, its parent, its memory by kind, and how often it was switched to. A
    program that was started in it, or another process with its pid, would have been switched to. Nor do
    others change its memory without changing its figures.
    """
    if before == now:
        return True
    if len(before) != len(now):
        return False
    # How many signals its user has queued is no matter of its own.
    start = before.find(b"\nSigQ:")
    end = before.find(b"\n", start + 1)
    return before[:start] == now[:start] and before[end:] == now[end:]


def missing(pid: int | None, what: str, reason: str | None = None) -> Missing:
    """What could not be read; for want of permission, unless another reason is given."""
    if reason is None:
        # In a container's user namespace root may not read every process.
        reason = "permission denied" if os.geteuid() == 0 else "permission denied; run as root"
    return Missing(pid, what, reason)


def unit(cgroup: str | None) -> str | None:
    """The systemd unit that a cgroup belongs to."""
    parts = (cgroup or "").split("/")
    return next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), None)


_CONTAINER_ID = re.compile(
    r"(?:^|[/:-])(?:docker|libpod|cri-containerd|crio|containerd)?[-/]?([0-9a-f]{64})(?:\.scope)?(?=/|$)"
)
# The pods that a node's own files describe have 32 digits without hyphens.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?![0-9a-f])")
_NAMED_CONTAINER = re.compile(
    r"/(?:lxc(?:\.payload)?[./]|machine\.slice/(?:machine-|systemd-nspawn@))"
    r"([^/]+?)(?:\.scope|\.service)?(?=/|$)"
)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


def container(cgroup: str | None) -> str | None:
    """The container that a cgroup belongs to, the innermost of several: pods and ids by their first 12
    digits, others by name."""
    path = cgroup or ""
    pod, identity, named = (_last(pattern, path) for pattern in (_POD, _CONTAINER_ID, _NAMED_CONTAINER))
    parts = []
    if pod:
        digits = pod.replace("-", "").replace("_", "")[:12]
        parts.append(f"pod {digits[:8]}-{digits[8:]}")
    if identity:
        parts.append(f"container {identity[:12]}")
    elif named:
        # systemd escapes what a unit's name may not hold.
        parts.append(f"container {_ESCAPED.sub(lambda code: chr(int(code[1], 16)), named)}")
    return " ".join(parts) or None


def _last(pattern: re.Pattern[str], path: str) -> str | None:
    found = pattern.findall(path)
    return found[-1] if found else None
