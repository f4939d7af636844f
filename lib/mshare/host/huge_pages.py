# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's pools of huge pages, as /sys shows them (Documentation/admin-guide/mm/hugetlbpage.rst).

The one place that reads them: /proc/meminfo knows the default size only, and as counts among sizes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..units import GIB, KIB, MIB
from .procfs import read_line

_POOLS = "/sys/kernel/mm/hugepages"
_NODES = "/sys/devices/system/node"
_POOL_NAME = re.compile(r"hugepages-([0-9]+)kB\Z")
_NODE_NAME = re.compile(r"node([0-9]+)\Z")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


@dataclass(frozen=True)
class Pool:
    """A pool of huge pages of one size: counts of pages; None for what the kernel does not show there."""

    page_bytes: int
    node: int | None
    """A NUMA node, or None for the host as a whole."""
    total: int | None
    free: int | None
    reserved: int | None
    """Promised to who has mapped them and not touched them yet; kept for the host as a whole only."""
    surplus: int | None
    overcommit: int | None
    """How many more the kernel may take from ordinary memory; kept for the host as a whole only."""

    @property
    def available(self) -> int:
        """Pages that a new mapping can have: free and not reserved, and what overcommit still allows."""
        spare = (self.overcommit or 0) - (self.surplus or 0)
        return (self.free or 0) - (self.reserved or 0) + max(0, spare)

    @property
    def used(self) -> int:
        """Pages in use, and those that are promised: still free, but no longer to be had."""
        return max(0, (self.total or 0) - (self.free or 0) + (self.reserved or 0))

    @property
    def persistent(self) -> int:
        """Pages that stay when they are freed: what is written to nr_hugepages."""
        return (self.total or 0) - (self.surplus or 0)


def sizes_bytes(root: str = "/") -> list[int]:
    """The huge page sizes for which this kernel has pools, smallest first."""
    return sorted(page_bytes for page_bytes, __ in _folders(os.path.join(root, _POOLS[1:])))


def pool(page_bytes: int, root: str = "/") -> Pool | None:
    """The host's pool of one page size; None where the kernel has none of that size.

    `root` is where the host's file system is seen; tests have one of their own.
    """
    return next(
        (
            candidate
            for candidate in pools(root)
            if candidate.page_bytes == page_bytes and candidate.node is None
        ),
        None,
    )


def nr_file(page_bytes: int, node: int | None = None) -> str:
    """The file that sets how many pages a pool has."""
    place = _POOLS if node is None else f"{_NODES}/node{node}/hugepages"
    return f"{place}/hugepages-{page_bytes // KIB}kB/nr_hugepages"


def controller_size(page_bytes: int) -> str:
    """How the hugetlb controller of cgroups names a size: 64KB, 2MB, 1GB."""
    if page_bytes >= GIB:
        return f"{page_bytes // GIB}GB"
    return f"{page_bytes // MIB}MB" if page_bytes >= MIB else f"{page_bytes // KIB}KB"


def pools(root: str = "/") -> list[Pool]:
    """Every pool: per page size for the whole host (node None), then per NUMA node that has memory."""
    places: list[tuple[int | None, str]] = [(None, os.path.join(root, _POOLS[1:]))]
    nodes = os.path.join(root, _NODES[1:])
    with_memory = _listed(read_line(os.path.join(nodes, "has_memory")))
    places += sorted(
        (int(name[1]), os.path.join(nodes, name[0], "hugepages"))
        for name in map(_NODE_NAME.match, _names(nodes))
        # Since Linux 6.1 a node of processors only has these files too, and never a page.
        if name and (with_memory is None or int(name[1]) in with_memory)
    )
    return [
        _pool(folder, page_bytes, node) for node, place in places for page_bytes, folder in _folders(place)
    ]


def _pool(folder: str, page_bytes: int, node: int | None) -> Pool:
    def count(name: str) -> int | None:
        return _number(f"{folder}/{name}_hugepages")

    of_host = node is None
    return Pool(
        page_bytes,
        node,
        total=count("nr"),
        free=count("free"),
        reserved=count("resv") if of_host else None,
        surplus=count("surplus"),
        overcommit=count("nr_overcommit") if of_host else None,
    )


def _listed(line: str | None) -> set[int] | None:
    """The numbers of a list like 0-1,4; None where there is none."""
    if not line:
        return None
    ranges = (_RANGE.fullmatch(part) for part in line.split(","))
    return {number for part in ranges if part for number in range(int(part[1]), int(part[2] or part[1]) + 1)}


def _folders(place: str) -> list[tuple[int, str]]:
    """(page size in bytes, folder) of each pool below a place."""
    matches = sorted((int(name[1]), name[0]) for name in map(_POOL_NAME.match, _names(place)) if name)
    return [(size_kib * KIB, os.path.join(place, name)) for size_kib, name in matches]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _number(path: str) -> int | None:
    line = read_line(path)
    return int(line) if line and line.isdigit() else None
