# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's own huge pages: what a version can do, what stands in the way, and what came of `try`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import Conflict, Unavailable
from ..host import huge_pages, procfs
from ..kernel.abi import HUGE_PAGE_BYTES
from ..units import GIB, KIB, MIB, TIB, counted, format_size
from . import ask, clusters
from .clusters import Cluster
from .files import Changes
from .placement import Segment

_HUGE_PAGES = (9, 4)
HUGE_PAGE_SIZE = (14,)
_UNSET = ("", "0")
_UNITS = {"B": 1, "kB": KIB, "MB": MIB, "GB": GIB, "TB": TIB}
_SIZE = re.compile(r"([0-9]+)\s*(B|kB|MB|GB|TB)?\Z")


@dataclass(frozen=True)
class HugePages:
    """PostgreSQL's own setting, and what came of it in the server that runs."""

    setting: str
    """huge_pages, as the files have it: "on", "off" or "try"."""
    source: str
    """The file that sets it, or what else does."""
    fell_back: bool
    """Whether it is "try" and the server is in small pages all the same."""
    status: str | None
    """huge_pages_status of the server, which PostgreSQL 17 and later tell; None if nobody asked."""


def version_of(cluster: Cluster) -> tuple[int, ...]:
    """(9, 4) or (15,): what tells what a version can do."""
    parts = [int(part) for part in cluster.version.split(".")]
    return tuple(parts[: 2 if parts[0] < 10 else 1])


def described(cluster: Cluster, segment: Segment | None, status: str | None = None) -> HugePages:
    """What is set, and whether a server with that segment has it. A server in a region or in transparent
    huge pages has not fallen back: there the library asks."""
    setting, source = clusters.settings(cluster).get("huge_pages", ("try", "PostgreSQL's default"))
    setting = setting.lower()
    small = segment is not None and segment.kind in ("anonymous", "sysv")
    return HugePages(setting, source, setting == "try" and small, status)


def own_size(cluster: Cluster, planned: Changes) -> str:
    """huge_page_size as a cluster's own files have it; `planned` are the files with ours left out."""
    others = {path: text or "" for path, text in planned.items()}
    return clusters.settings(cluster, others).get("huge_page_size", ("", ""))[0]


def page_bytes(cluster: Cluster, asked_bytes: int | None, own: str) -> int | None:
    """The size of pages to set; None for a version that has no setting for it.

    What the cluster has of its `own` stays. Otherwise it is 2 MiB where the kernel has those, and its
    default size elsewhere.
    """
    default_bytes = procfs.meminfo_bytes().get("Hugepagesize")
    if version_of(cluster) < HUGE_PAGE_SIZE:
        if asked_bytes not in (None, default_bytes):
            raise Conflict(
                f"PostgreSQL {cluster.version} has no setting huge_page_size (14 has), so cluster"
                f" {cluster.id} takes this host's default size, {format_size(default_bytes or 0)}, and not"
                f" {format_size(asked_bytes or 0)}; leave page_size out"
            )
        return None
    if asked_bytes is None and own not in _UNSET:
        return _size_bytes(own)
    sizes = huge_pages.sizes_bytes()
    wanted = asked_bytes or (HUGE_PAGE_BYTES if HUGE_PAGE_BYTES in sizes else default_bytes)
    if wanted not in sizes:
        listed = ", ".join(map(format_size, sizes)) or "none"
        raise Unavailable(
            f"this kernel has no pool of huge pages of {format_size(wanted or 0)}; it has: {listed}; set"
            " pages to thp, which needs no pool, or name another page_size"
        )
    return wanted


def needs_size(wanted_bytes: int | None, own: str) -> bool:
    """Whether a size has to be set, because a server would take another one by itself."""
    default_bytes = procfs.meminfo_bytes().get("Hugepagesize")
    return wanted_bytes != (default_bytes if own in _UNSET else _size_bytes(own))


def _size_bytes(value: str) -> int | None:
    """A size as PostgreSQL reads it, in kB without a unit; None for what it would not start with."""
    match = _SIZE.match(value)
    return int(match[1]) * _UNITS[match[2] or "kB"] if match else None


def require(cluster: Cluster) -> None:
    """Conflict for a cluster that does not start with huge_pages = on."""
    if version_of(cluster) < _HUGE_PAGES:
        raise Conflict(
            f"PostgreSQL {cluster.version} has no setting huge_pages (9.4 has), so nothing was changed in"
            f" cluster {cluster.id}; set pages to thp or hugetlb, which the library asks for"
        )
    kind, source = clusters.settings(cluster).get("shared_memory_type", ("", ""))
    kind = (ask.setting(cluster, "shared_memory_type") or kind).lower()
    if kind == "sysv":
        raise Conflict(
            f"PostgreSQL cluster {cluster.id} does not start with huge_pages = on and shared_memory_type ="
            f" sysv ({source or 'as PostgreSQL says'}), so nothing was changed; set shared_memory_type ="
            " mmap, or pages to thp or hugetlb"
        )


def require_pool(
    cluster: Cluster, segment: Segment | None, size_bytes: int | None, planned_pages: int = 0
) -> None:
    """Unavailable where the pool is too small for the segment that the server will have.

    `size_bytes` is the page size; None for the host's default. `planned_pages` are pages that the pool
    will have been given by then.
    """
    if segment is None:
        return
    size = size_bytes or procfs.meminfo_bytes().get("Hugepagesize") or HUGE_PAGE_BYTES
    pool = huge_pages.pool(size)
    needed = -(-max(segment.size_bytes, ask.shared_buffers_bytes(cluster) or 0) // size)
    free = (pool.available if pool else 0) + planned_pages
    if segment.kind == "hugetlb" and segment.page_bytes == size:
        # Its own pages come free when it stops.
        free += -(-segment.size_bytes // size)
    if free < needed:
        where = "module mshare_huge_pages, playbook dbmem.mshare.remedy"
        if size >= GIB:
            where = f"hugepagesz={size // GIB}G hugepages=COUNT on the kernel's command line"
        raise Unavailable(
            f"PostgreSQL cluster {cluster.id} needs {counted(needed, 'huge page')} of {format_size(size)},"
            f" but this host has {free} free, so nothing was changed; reserve {needed - free} more ({where}),"
            " or set pages to thp, which needs no pool"
        )
