# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this host has room for more processes: numbers for them, what limits allow, and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import MshareError
from ..host.limits import Host
from ..pagetable import page_tables
from ..units import counted, format_size

# The kernel gives no number below 300 out again.
_RESERVED_PIDS = 300
_LARGEST_PID_MAX = 1 << 22
_PIDS_FILE = "pids.max"
_EVERYBODY = "processes and threads"


@dataclass(frozen=True)
class Start:
    """Processes that are to be started for the clients of a region."""

    region: str
    clients: int
    """How many the region is to have."""
    processes: int
    """How many more there will be than now, with the launcher if none runs."""
    client_bytes: int
    """What one of them takes at least, besides its page tables."""
    launcher_pid: int | None
    """Who starts them, if it runs already: what limits it, limits them."""
    supervised: bool
    """Whether systemd starts the launcher."""


@dataclass(frozen=True)
class _Limit:
    """A number of processes and threads that cannot be exceeded."""

    name: str
    """For a sentence."""
    maximum: int
    used: int
    users: str
    next_step: str
    """How it is raised."""
    reserved: int = 0

    @property
    def left(self) -> int:
        return max(0, self.maximum - self.reserved - self.used)


def check(starts: Sequence[Start], host: Host | None = None) -> None:
    """Refuse what this host has no room for, all together; each limit that is in the way is named.

    Processes that others start meanwhile are not known: the launcher says what happens then.
    """
    wanted = [start for start in starts if start.processes > 0]
    known_host = host or Host(keeps=True)
    reasons = [*_too_many(wanted, known_host), *_too_much_memory(wanted, known_host)]
    if reasons:
        raise MshareError(". ".join(reasons))


def _too_many(starts: Sequence[Start], host: Host) -> Iterator[str]:
    by_limit: dict[_Limit, list[Start]] = {}
    for start in starts:
        for limit in _limits(start, host):
            by_limit.setdefault(limit, []).append(start)
    for limit, limited in by_limit.items():
        processes = sum(start.processes for start in limited)
        if processes > limit.left:
            reserved = f" {limit.reserved} reserved," if limit.reserved else ""
            needed = limit.maximum - limit.left + processes
            yield (
                f"{_who(limited)} {counted(processes, 'more process', 'more processes')}, but {limit.name} is"
                f" {limit.maximum:,}: {limit.used:,} taken by {limit.users},{reserved} {limit.left:,} left;"
                f" {limit.next_step.format(needed=needed)}, or {_fewer(limited, processes - limit.left)}"
            )


def _limits(start: Start, host: Host) -> Iterator[_Limit]:
    threads = host.threads()
    pid_max = host.number("/proc/sys/kernel/pid_max")
    if pid_max:
        step = "raise it (`sysctl -w kernel.pid_max={needed}`" + f", at most {_LARGEST_PID_MAX})"
        yield _Limit("kernel.pid_max", pid_max, threads, _EVERYBODY, step, _RESERVED_PIDS)
    threads_max = host.number("/proc/sys/kernel/threads-max")
    if threads_max:
        step = "raise it (`sysctl -w kernel.threads-max={needed}`)"
        yield _Limit("kernel.threads-max", threads_max, threads, _EVERYBODY, step)
    who: int | str = "self" if start.launcher_pid is None else start.launcher_pid
    by_systemd = start.supervised and start.launcher_pid is None
    # What systemd starts for root is not limited by it.
    user_limit = None if by_systemd else host.processes_limit(who)
    if user_limit is not None:
        step = "raise it to {needed} (`ulimit -u`, LimitNPROC=, or nproc in /etc/security/limits.conf)"
        used = host.threads_of_user(who)
        yield _Limit("RLIMIT_NPROC of this user", user_limit, used, "its processes and threads", step)
    below = "/mshare.slice" if by_systemd else None
    for limit in host.cgroup_limits("pids", _PIDS_FILE, _PIDS_FILE, below, who):
        used = host.number(os.path.join(os.path.dirname(limit.path), "pids.current"))
        step = "raise it to {needed} (TasksMax=, or in that file)"
        yield _Limit(limit.path, limit.limit, used, "what is in that cgroup", step)


def _too_much_memory(starts: Sequence[Start], host: Host) -> Iterator[str]:
    table_bytes = page_tables(1).total_bytes
    needed_bytes = sum(start.processes * (start.client_bytes + table_bytes) for start in starts)
    available_bytes = host.memory_bytes("MemAvailable")
    # The other half is for the page tables of what they touch, and for everybody else.
    if needed_bytes > available_bytes // 2:
        over_bytes = needed_bytes - available_bytes // 2
        each_bytes = min(start.client_bytes for start in starts) + table_bytes
        yield (
            f"{_who(starts)} at least {format_size(needed_bytes)} more, but only half of this host's"
            f" available {format_size(available_bytes)} may be used; free some memory, or"
            f" {_fewer(starts, math.ceil(over_bytes / each_bytes))}"
        )


def _who(starts: Sequence[Start]) -> str:
    """Subject and verb of a sentence."""
    if len(starts) > 1:
        return f"the clients of regions {', '.join(start.region for start in starts)} together need"
    (start,) = starts
    return f"{counted(start.clients, 'client')} of region {start.region} need{'s' * (start.clients == 1)}"


def _fewer(starts: Sequence[Start], over: int) -> str:
    """What can be asked for instead, where that can be said of one region."""
    if len(starts) == 1 and starts[0].clients > over:
        return f"ask for at most {counted(starts[0].clients - over, 'client')}"
    return "end some other processes"
