# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find all descendants of a process, and end them together.

psutil is imported only when there is something to end: code that only reads a host does not need it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import MshareError, Unavailable
from ..host import procfs

if TYPE_CHECKING:
    import psutil


def require() -> None:
    """Unavailable, with the next step, where psutil is missing."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise Unavailable(
            "ending what a program has started needs psutil; install the package python3-psutil, or `pip"
            " install psutil`"
        ) from None


def descendants(pid: int) -> list[psutil.Process]:
    """What a process has started and what they started, oldest first; none for a process that is gone.

    Each is known by its pid and the time it was created: a pid that is used again is another process.
    """
    require()
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def session(leader_pid: int, started_ticks: int, variable: str) -> list[int]:
    """The processes of the session that a process led, alive or not, without the leader itself.

    Only those that have `variable` (NAME=value) in their environment, with which their leader's programs were
    started: once a session is empty, its number can be reused.
    """
    leader_ticks = procfs.start_ticks(leader_pid)
    # Seen from within a pid namespace, every session that was begun outside of it has the number 0.
    if leader_pid <= 1 or leader_pid == os.getsid(0) or leader_ticks not in (None, started_ticks):
        return []
    return [
        pid
        for pid in procfs.pids()
        if pid != leader_pid and _session_of(pid) == leader_pid and variable in _environment(pid)
    ]


def _session_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        if procfs.start_ticks(pid) is not None:
            return os.getsid(pid)
    return None


def _environment(pid: int) -> list[str]:
    """NAME=value of a process; empty if this user may not read it."""
    with contextlib.suppress(OSError):
        return (procfs.read(f"/proc/{pid}/environ") or "").split("\0")
    return []


def by_pid(pids: Sequence[int]) -> list[psutil.Process]:
    """Processes by their pids; without those that have ended."""
    if not pids:
        return []
    require()
    import psutil

    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    return processes


def end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """SIGTERM, and SIGKILL for those that have not ended in time; MshareError for what survives that."""
    if not processes:
        return
    require()
    import psutil

    alive = [process for process in processes if process.is_running()]
    for signal_all in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                signal_all(process)
        __, alive = psutil.wait_procs(alive, timeout=seconds)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise MshareError(
            f"process {pids} did not end in {2 * seconds:g} s, even by SIGKILL; see what it waits for"
        )
