# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a host before a region is created there.

A failure is what would certainly stop the region or kill its owner; what depends on the later use of the
region is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import MshareError
from ..host import huge_pages
from ..host.limits import CgroupLimit, Host
from ..kernel.abi import HUGE_PAGE_BYTES
from ..pagetable import page_tables
from ..units import counted, format_size
from .rules import OWNER_BYTES

# The highest uid of a system user, whose shared memory logind leaves alone.
_SYSTEM_UIDS = 999
_MEMORY_FILES = ("memory", "memory.limit_in_bytes", "memory.max")
_HUGETLB_FILES = ("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")


@dataclass(frozen=True)
class Wanted:
    """What a region needs from its host."""

    name: str
    window_bytes: int
    memory_bytes: int
    """Anonymous memory and huge pages, without files."""
    hugetlb_bytes: int = 0
    overcommit: bool = False
    """Whether the user expects that only part will be touched."""
    prefault: bool = False
    attaches: bool = False
    """Whether the owner maps it itself, to fill it."""
    memory_max_bytes: int | None = None
    units: Sequence[str] = ()
    """systemd units that start after it."""
    uid: int = 0
    """The owner of its file."""
    simulated: bool = False
    address_space_limit: tuple[int, str] | None = None
    """The limit of processes started by systemd, and who sets it; None if systemd does not run."""
    supervised: bool = False
    """Whether systemd manages it, in mshare.slice."""

    @property
    def filled_bytes(self) -> int:
        """What it needs when all of it is touched, with page tables and owner."""
        return self.memory_bytes + page_tables(self.memory_bytes).total_bytes + OWNER_BYTES


@dataclass(frozen=True)
class Finding:
    fatal: bool
    sentence: str


Check = Callable[[Wanted, Host], Iterator[Finding]]


def _address_space(wanted: Wanted, host: Host) -> Iterator[Finding]:
    own = host.address_space_bytes()
    limit = wanted.address_space_limit if wanted.supervised else (own, _who_limits(host)) if own else None
    if limit is not None and limit[0] is not None and limit[0] < wanted.window_bytes:
        yield Finding(
            wanted.attaches,
            f"region {wanted.name} needs {format_size(wanted.window_bytes)} of address space in each"
            f" process that attaches, but processes started here may have {format_size(limit[0])} (RLIMIT_AS,"
            f" {limit[1]}); lift that limit",
        )


def _who_limits(host: Host) -> str:
    """Where this process's RLIMIT_AS comes from, as far as files show."""
    for file in ["/etc/security/limits.conf", *host.files("/etc/security/limits.d/*.conf")]:
        for line in (host.read(file) or "").splitlines():
            words = line.split("#")[0].split()
            if len(words) == 4 and words[2] == "as":
                return f"see {file}"
    return "set with ulimit -v in the shell or the service that runs this"


def _commit_limit(wanted: Wanted, host: Host) -> Iterator[Finding]:
    if host.number("/proc/sys/vm/overcommit_memory") != 2:
        return
    free_bytes = host.memory_bytes("CommitLimit") - host.memory_bytes("Committed_AS")
    # The simulator's tmpfs is accounted when pages are touched, a kernel's memory when it is mapped.
    fatal = wanted.prefault or not wanted.simulated
    if wanted.memory_bytes > free_bytes and (fatal or not wanted.overcommit):
        yield Finding(
            fatal,
            f"region {wanted.name} needs {format_size(wanted.memory_bytes)}, but this host, whose"
            f" vm.overcommit_memory is 2, has {format_size(max(0, free_bytes))} left to commit (CommitLimit"
            f" minus Committed_AS); raise vm.overcommit_ratio, or set vm.overcommit_memory to 0",
        )


def _memory_cgroups(wanted: Wanted, host: Host) -> Iterator[Finding]:
    for limit in host.cgroup_limits(*_MEMORY_FILES, below=_slice(wanted)):
        if limit.limit < wanted.filled_bytes and (wanted.prefault or not wanted.overcommit):
            yield Finding(
                wanted.prefault,
                f"region {wanted.name} needs {format_size(wanted.filled_bytes)} when all of it is touched,"
                f" with its page tables and its owner, but {_may_take(limit, host)}; raise that limit, or"
                f" reduce the region",
            )
        if wanted.memory_max_bytes is not None and limit.limit < wanted.memory_max_bytes:
            yield Finding(
                False,
                f"memory_max of region {wanted.name} is {format_size(wanted.memory_max_bytes)}, but"
                f" {_may_take(limit, host)}, which is reached first; raise that limit, or lower memory_max",
            )


def _slice(wanted: Wanted) -> str | None:
    """The parent of the region's own cgroup, whose limit is the region's memory_max."""
    return "/mshare.slice" if wanted.supervised else None


def _may_take(limit: CgroupLimit, host: Host) -> str:
    kind = host.container()
    where = f", in a container ({kind})," if kind else ""
    return f"its cgroup{where} may take {format_size(limit.limit)} ({limit.path})"


def _huge_pages(wanted: Wanted, host: Host) -> Iterator[Finding]:
    pages = -(-wanted.hugetlb_bytes // HUGE_PAGE_BYTES)
    pool = huge_pages.pool(HUGE_PAGE_BYTES, host.root)
    available = pool.available if pool else 0
    if pages > available:
        yield Finding(
            True,
            f"region {wanted.name} needs {counted(pages, 'huge page')} of 2 MiB, but this host has"
            f" {(pool.total if pool else 0) or 0}, of them free: {available}; raise vm.nr_hugepages by"
            f" {pages - available}",
        )


def _hugetlb_cgroups(wanted: Wanted, host: Host) -> Iterator[Finding]:
    for limit in host.cgroup_limits(*_HUGETLB_FILES, below=_slice(wanted)):
        if limit.limit < wanted.hugetlb_bytes:
            yield Finding(
                True,
                f"region {wanted.name} needs {format_size(wanted.hugetlb_bytes)} in huge pages, but"
                f" {_may_take(limit, host)}: touching more is a bus error; raise that limit",
            )


def _removed_at_logout(wanted: Wanted, host: Host) -> Iterator[Finding]:
    remove_ipc = host.setting("logind", "RemoveIPC") if host.runs_systemd() else None
    if (
        wanted.uid > _SYSTEM_UIDS
        and remove_ipc is not None
        and remove_ipc[0].lower() in ("yes", "true", "1", "on")
    ):
        yield Finding(
            False,
            f"region {wanted.name} is for uid {wanted.uid}, who is not a system user, and logind removes"
            f" the shared memory of such users at logout (RemoveIPC={remove_ipc[0]}, {remove_ipc[1]}),"
            f" even while a database uses it; set RemoveIPC=no, or run the database as a system user",
        )


def _without_systemd(wanted: Wanted, host: Host) -> Iterator[Finding]:
    given = {"memory_max": wanted.memory_max_bytes, "before": wanted.units}
    for option, value in given.items():
        if value and not wanted.supervised:
            why = "systemd manages what root deploys" if host.runs_systemd() else "systemd does not run here"
            yield Finding(False, f"{option} has no effect on this host: {why}")


CHECKS: tuple[Check, ...] = (
    _address_space,  # RLIMIT_AS
    _commit_limit,  # vm.overcommit_memory=2
    _memory_cgroups,  # memory.max of the slice, of the container
    _huge_pages,  # the pool
    _hugetlb_cgroups,
    _removed_at_logout,  # RemoveIPC
    _without_systemd,
)


def findings(wanted: Wanted, host: Host | None = None) -> list[Finding]:
    """What stands in the way of a region on this host, and what will."""
    known_host = host or Host()
    return [finding for check in CHECKS for finding in check(wanted, known_host)]


def require(results: Sequence[Finding]) -> None:
    """Raise a single MshareError for all failures among the findings."""
    fatal = [finding.sentence for finding in results if finding.fatal]
    if fatal:
        raise MshareError(". ".join(fatal))


def warnings(results: Sequence[Finding]) -> list[str]:
    return [finding.sentence for finding in results if not finding.fatal]
