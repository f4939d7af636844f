# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of other pools, each with its figures. All is known before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import Conflict, MshareError
from ..host import procfs
from ..host.huge_pages import Pool
from ..host.limits import Host
from ..units import counted, format_size
from .pool import Change

_LEFT_SHARE = 0.05
"""Of the RAM that has to stay available for everything else."""
# Of a node's memory, what the kernel can free for huge pages, as MemAvailable counts it for the host.
_NODE_FIELDS = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")


@dataclass(frozen=True)
class Case:
    """Pools, and how they are to change."""

    host: Host
    pools: Mapping[tuple[int, int | None], Pool]
    changes: tuple[Change, ...]
    share_of_ram_max: float
    live: bool
    holders: Callable[[int], str]
    """Who has pages of a size, as a clause."""
    released_bytes: int = 0
    """What is in use now, and is given back before the pools are changed."""

    @property
    def memory_bytes(self) -> int:
        return self.host.memory_bytes("MemTotal")

    @property
    def pools_bytes(self) -> int:
        """What all pools of the host take now, surplus pages included."""
        return sum((pool.total or 0) * size for (size, node), pool in self.pools.items() if node is None)

    @property
    def growth_bytes(self) -> int:
        return sum(change.growth_bytes for change in self.changes)


def _used(case: Case) -> Iterator[MshareError]:
    for change in case.changes if case.live else ():
        pool = case.pools[(change.page_bytes, change.node)]
        # What the kernel may have beyond the pool (overcommit) stays, as surplus, and can be had again.
        staying = pool.used - case.released_bytes // change.page_bytes - (pool.overcommit or 0)
        if change.wanted < change.before and change.wanted < min(staying, change.before):
            yield Conflict(
                f"the {change.text} cannot have {counted(change.wanted, 'page')}: {pool.used:,} of its"
                f" {pool.total or 0:,} are in use or reserved, {case.holders(change.page_bytes)}; ask for at"
                f" least {pool.used:,}, or first stop the programs, or remove the files, that have them"
            )


def _reserved(case: Case) -> Iterator[MshareError]:
    """A reservation is of the host as a whole: any node's free pages may be what was promised."""
    for size in {change.page_bytes for change in case.changes if change.node is not None and case.live}:
        host = case.pools[(size, None)]
        taken = sum(
            change.before - change.wanted
            for change in case.changes
            if change.page_bytes == size and change.node is not None
        )
        left = (host.free or 0) - taken
        if taken > 0 and left < (host.reserved or 0):
            yield Conflict(
                f"{counted(taken, 'page')} of {format_size(size)} cannot be taken from NUMA nodes:"
                f" {host.reserved or 0:,} of the host's {counted(host.free or 0, 'free page')} are reserved,"
                f" {case.holders(size)}; leave at least that many, or first stop the programs that"
                " reserved them"
            )


def _share(case: Case) -> Iterator[MshareError]:
    after_bytes, memory_bytes = case.pools_bytes + case.growth_bytes, case.memory_bytes
    most_bytes = int(case.share_of_ram_max * memory_bytes)
    if case.growth_bytes > 0 and after_bytes > most_bytes:
        asked = ", ".join(f"{change.wanted:,} in the {change.text}" for change in case.changes)
        yield MshareError(
            f"all pools of huge pages would take {format_size(after_bytes)} of the"
            f" {format_size(memory_bytes)} of RAM ({asked}), and at most {format_size(most_bytes)} may be"
            f" taken (share_of_ram_max {case.share_of_ram_max:g}); ask for less, or allow a larger share"
        )


def _available(case: Case) -> Iterator[MshareError]:
    if not case.live:
        return
    available_bytes = case.host.memory_bytes("MemAvailable")
    left_bytes = int(_LEFT_SHARE * case.memory_bytes)
    if case.growth_bytes > max(0, available_bytes - left_bytes):
        yield MshareError(
            f"the pools would take {format_size(case.growth_bytes)} more, and this host has"
            f" {format_size(available_bytes)} available (MemAvailable, measured), of which"
            f" {format_size(left_bytes)} have to stay for everything else; ask for less, free memory, or set"
            " it for the next boot only (live: false, --no-live)"
        )


def _available_on_node(case: Case) -> Iterator[MshareError]:
    for node in sorted({change.node for change in case.changes if change.node is not None}):
        growth_bytes = sum(change.growth_bytes for change in case.changes if change.node == node)
        fields = _node_memory(case.host, node)
        free_bytes = sum(fields.get(name, 0) for name in _NODE_FIELDS)
        if case.live and fields and growth_bytes > free_bytes:
            yield MshareError(
                f"the pools of NUMA node {node} would take {format_size(growth_bytes)} more, and it has"
                f" {format_size(free_bytes)} that are free or in the page cache (measured); ask for"
                " less there"
            )


def _node_memory(host: Host, node: int) -> dict[str, int]:
    """A node's meminfo in bytes: its lines begin with `Node 0 `."""
    text = host.read(f"/sys/devices/system/node/node{node}/meminfo") or ""
    return procfs.kib_fields("\n".join(" ".join(line.split()[2:]) for line in procfs.lines(text)))


CHECKS: tuple[Callable[[Case], Iterator[MshareError]], ...] = (
    _used,
    _reserved,
    _share,
    _available,
    _available_on_node,
)


def require(case: Case) -> None:
    """Raise the first thing that stands in the way."""
    for check in CHECKS:
        for error in check(case):
            raise error
