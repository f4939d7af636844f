# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading /proc with the standard library only: enough to read a host's state.

Fields are documented in proc(5). A process that vanishes between two reads is an answer (None), not
an error.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import Unavailable
from ..printable import printable

# The kernel writes kB, and means 1024 bytes.
_KB_BYTES = 1024
_CHUNK_BYTES = 1 << 14
_TEXTS_KEPT = 256
# Fewer than the open files that a process may have (RLIMIT_NOFILE) by default.
_PIDFDS_AT_ONCE = 256
# CAP_SYS_PTRACE, by its bit.
_SYS_PTRACE = 19


def read(path: str) -> str | None:
    """A file's text; None if the file does not exist (any more)."""
    try:
        return _content(path)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None


def _content(path: str) -> str:
    return content(path).decode("utf-8", "surrogateescape")


def content(path: str) -> bytes:
    """The bytes of a small file; OSError as open(2) and read(2) do."""
    # Not open(), which takes three times as long for each of the many small files that are read here.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        part = os.read(fd, _CHUNK_BYTES)
        parts = [part]
        while part:
            part = os.read(fd, _CHUNK_BYTES)
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts)


def lines(text: str | None) -> list[str]:
    # Not splitlines(): names of processes and mount points may hold what that takes for a line's end.
    return [line for line in (text or "").split("\n") if line]


def kib_fields(text: str) -> dict[str, int]:
    """`Name:   123 kB` lines as bytes."""
    fields = {}
    for line in lines(text):
        name, __, value = line.partition(":")
        number, __, unit = value.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            fields[name] = int(number) * _KB_BYTES
    return fields


class _Meminfo(dict[str, int]):
    """The fields of /proc/meminfo. Asking for one that is not there is an error, and says which."""

    def __missing__(self, name: str) -> int:
        raise Unavailable(
            f"/proc/meminfo has no {name}, which Linux writes since 3.14; check what is mounted at /proc"
        )


def meminfo_bytes() -> dict[str, int]:
    """/proc/meminfo's sizes in bytes (counts of huge pages are not sizes and are left out).

    Unavailable for a field that is asked for in brackets and is missing.
    """
    return _Meminfo(kib_fields(read("/proc/meminfo") or ""))


def status_bytes(pid: int | str = "self") -> dict[str, int] | None:
    """The sizes in /proc/PID/status in bytes, or None for a process that is gone."""
    text = read(f"/proc/{pid}/status")
    return None if text is None else kib_fields(text)


def vm_pte_bytes(pid: int | str = "self") -> int | None:
    """Page tables of a process in bytes (VmPTE: all levels below the PGD).

    Linux 4.0 to 4.14 have PMD tables in a field of their own, and PUD tables nowhere.
    """
    fields = status_bytes(pid)
    return None if fields is None else fields.get("VmPTE", 0) + fields.get("VmPMD", 0)


def pids() -> list[int]:
    """The processes that exist, as far as this process may see them."""
    return sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def maps(pid: int) -> str:
    """/proc/PID/maps; empty for a process that is gone or that this user may not read."""
    try:
        return read(f"/proc/{pid}/maps") or ""
    except PermissionError:
        return ""


def command(pid: int) -> str:
    """A process's command line, or its name in brackets where it has none: in one line, for a sentence."""
    line = (read(f"/proc/{pid}/cmdline") or "").rstrip("\0").replace("\0", " ")
    return printable(line or f"[{(read(f'/proc/{pid}/comm') or 'gone').strip()}]")


class Cgroup(NamedTuple):
    """Where a process is in one hierarchy of control groups."""

    hierarchy: str
    """ "0" is the unified one."""
    controllers: str
    path: str


@lru_cache(maxsize=_TEXTS_KEPT)
def cgroups(text: str | None) -> tuple[Cgroup, ...]:
    """The lines of /proc/PID/cgroup. All processes of a unit have the same ones."""
    parts = [line.split(":", 2) for line in lines(text)]
    return tuple(Cgroup(*part) for part in parts if len(part) == 3)


def unit(pid: int) -> str | None:
    """The systemd unit that a process belongs to, else its cgroup; None in the root."""
    paths = [cgroup.path for cgroup in cgroups(read(f"/proc/{pid}/cgroup"))]
    names = [part for path in paths for part in reversed(path.split("/"))]
    units = [part for part in names if part.endswith((".service", ".scope"))]
    return next(iter(units or [path for path in paths if path != "/"]), None)


def start_ticks(pid: int, thread: int | None = None) -> int | None:
    """When a process (or one of its threads) started, in clock ticks since boot; None if it is gone.

    A zombie counts as gone: it has no memory any more.
    """
    fields = _stat(f"/proc/{pid}" if thread is None else f"/proc/{pid}/task/{thread}")
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def parent(pid: int) -> int | None:
    """The parent of a process: 0 where it is outside of this pid namespace; None if the process is gone."""
    fields = _stat(f"/proc/{pid}")
    return None if fields is None else int(fields[1])


def _stat(task: str) -> list[str] | None:
    """The fields of a task's stat file after the command's name, state first."""
    text = read(f"{task}/stat")
    # The command name may hold spaces and brackets; the fields after it are counted from its end.
    return None if text is None else text[text.rindex(")") + 2 :].split()


def alive(pid: int, started_ticks: int, thread: int | None = None) -> bool:
    """Whether the very process (pid and start time, for pids are reused) still runs."""
    return start_ticks(pid, thread) == started_ticks


def count_running(pids: Sequence[int]) -> int:
    """How many of these processes run. A zombie does not.

    Asked with pidfds, in about 3 us each: opening and reading a stat file for each takes ten times as long,
    which 10,000 processes make noticeable. And a pidfd answers where /proc hides other users' processes.
    """
    batches = (pids[first : first + _PIDFDS_AT_ONCE] for first in range(0, len(pids), _PIDFDS_AT_ONCE))
    return sum(map(_count_running, batches))


def _count_running(pids: Sequence[int]) -> int:
    running = 0
    fds = []
    ended = select.poll()
    try:
        for pid in pids:
            try:
                fds.append(os.pidfd_open(pid))
            except OSError as error:
                # Linux before 5.3, a seccomp filter, or no room for another descriptor.
                if error.errno in (errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ENFILE):
                    running += start_ticks(pid) is not None
            else:
                ended.register(fds[-1], select.POLLIN)
        return running + len(fds) - len(ended.poll(0))
    finally:
        for fd in fds:
            os.close(fd)


def filesystems() -> list[str]:
    """The file system types this kernel knows (/proc/filesystems)."""
    return [line.split()[-1] for line in lines(read("/proc/filesystems"))]


def sysctl(name: str) -> str | None:
    """A kernel setting by its dotted name, or None where there is none."""
    text = read("/proc/sys/" + name.replace(".", "/"))
    return None if text is None else text.strip()


def boot_id() -> str:
    """Identifies this boot; records from an earlier boot describe nothing that still runs."""
    return sysctl("kernel.random.boot_id") or ""


def read_line(path: str) -> str | None:
    try:
        return _content(path).strip()
    except OSError:
        return None


def may_trace() -> bool:
    """Whether this process may look into those of other users, also where /proc hides them (hidepid)."""
    status = read("/proc/self/status") or ""
    line = next((line for line in status.split("\n") if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> _SYS_PTRACE & 1)
