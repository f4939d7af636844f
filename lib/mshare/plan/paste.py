# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines to paste: huge pages for sysctl, settings of the database, variables of our roles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..units import GIB, KIB, MIB, TIB, format_size, round_up
from .facts import Facts, Host, Instance
from .remedies import ANONYMOUS_KINDS, POSTGRESQL_WITH_HUGE_PAGE_SIZE

_HUGE_BYTES = 2 * MIB
_EXACT_UNITS = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))


@dataclass(frozen=True)
class Paste:
    """Lines by where they go; an empty tuple where nothing is to be written."""

    sysctl: tuple[str, ...]
    database: tuple[str, ...]
    inventory: tuple[str, ...]


def paste(facts: Facts, pools: Iterable[int]) -> Paste:
    """The lines for all instances of a plan; `pools` are the connections of their poolers, in that order."""
    pooled = [(one, pool_to) for one, pool_to in zip(facts.instances, pools) if one.segments]
    planned = [one for one, __ in pooled]
    return Paste(
        tuple(_sysctl(facts.host, planned)),
        tuple(line for one, pool_to in pooled for line in _database(one, pool_to)),
        tuple(_inventory(planned)),
    )


def exact_size(size_bytes: int) -> str:
    """A size in the largest unit that says all of it: what is pasted must not be rounded."""
    for unit, factor in _EXACT_UNITS:
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


@dataclass(frozen=True)
class HugePages:
    """How many huge pages some memory needs, rounded up."""

    size_bytes: int
    page_bytes: int

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.page_bytes)

    @property
    def waste_bytes(self) -> int:
        return self.count * self.page_bytes - self.size_bytes

    def __str__(self) -> str:
        divided = f"{format_size(self.size_bytes)} / {format_size(self.page_bytes)}"
        return f"{divided}, rounded up: {self.count} pages, {format_size(self.waste_bytes)} wasted"


def huge_pages(instance: Instance, page_bytes: int = _HUGE_BYTES) -> list[HugePages]:
    """Of each segment that can be in huge pages and is not: each begins with a page of its own."""
    return [
        HugePages(one.size_bytes, page_bytes)
        for one in instance.segments
        if one.kind in ANONYMOUS_KINDS and one.page_bytes < page_bytes
    ]


def _sysctl(host: Host, instances: Iterable[Instance]) -> Iterable[str]:
    needed = [(one.name, pages) for one in instances for pages in huge_pages(one)]
    if not needed:
        return
    yield "# /etc/sysctl.d/60-huge-pages.conf, for hugetlb 2 MiB"
    for name, pages in needed:
        yield f"# {name}: {pages}"
    pool = host.pools.get(_HUGE_BYTES)
    used = pool.used if pool else 0
    count = used + sum(pages.count for __, pages in needed)
    if host.memory_total_bytes is not None and count * _HUGE_BYTES >= host.memory_total_bytes:
        yield f"# {count} pages do not fit the host's {format_size(host.memory_total_bytes)} of RAM"
        return
    if used:
        yield f"# {used} more are in use already: the number is the whole pool, not what is added"
    yield f"vm.nr_hugepages = {count}"
    yield "# The kernel may grant fewer than were asked for: compare HugePages_Total in /proc/meminfo."
    large = sum(HugePages(pages.size_bytes, GIB).count for __, pages in needed if pages.size_bytes >= GIB)
    if large:
        yield f"# For hugetlb 1 GiB instead, on the kernel's command line: hugepagesz=1G hugepages={large}"


def _database(instance: Instance, pool_to: int) -> Iterable[str]:
    if instance.kind in _SETTINGS and huge_pages(instance):
        yield from _SETTINGS[instance.kind](instance, pool_to)


def _postgresql(instance: Instance, pool_to: int) -> Iterable[str]:
    where = "if it is PostgreSQL" if instance.kind == "wish" else f"of {instance.name}"
    yield f"# postgresql.conf {where}, for hugetlb 2 MiB; takes effect at a restart"
    # `try`, the default, falls back to small pages and says so only in the log.
    yield "huge_pages = on"
    version = (instance.version or "").partition(".")[0]
    if not version.isdigit() or int(version) >= POSTGRESQL_WITH_HUGE_PAGE_SIZE:
        yield "huge_page_size = 2MB    # 1GB for hugetlb 1 GiB; PostgreSQL 14 and later"
    yield "# PostgreSQL 15 and later say how many pages they need, when stopped:"
    yield "#   postgres -C shared_memory_size_in_huge_pages -D DATA_DIRECTORY"
    yield f"# For connection pooling, pgbouncer.ini: pool_mode = transaction, default_pool_size = {pool_to},"
    yield f"#   max_client_conn = {instance.clients_maximum}; default_pool_size is per user and database"


def _oracle(instance: Instance, pool_to: int) -> Iterable[str]:
    yield f"-- SQL*Plus on {instance.name}, for hugetlb 2 MiB; memory_target must be 0, memlock unlimited"
    yield "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;"


# Of wishes it is not known which database they are for.
_SETTINGS = {"postgresql": _postgresql, "oracle": _oracle, "wish": _postgresql}


def _inventory(instances: list[Instance]) -> Iterable[str]:
    """Variables of the role `region`, for instances whose processes could share one."""
    sharing = [one for one in instances if one.clients_maximum > 1 and not one.setuid]
    if len(sharing) > 1:
        yield "# The role makes one region a run: one block for each run."
    for instance in sharing:
        size_bytes = sum(round_up(one.size_bytes, _HUGE_BYTES) for one in instance.segments)
        yield f"# {instance.name}: role dbmem.mshare.region, on a kernel with mshare"
        yield f"mshare_region_name: {region_name(instance.name)}"
        yield f"mshare_region_size: {exact_size(size_bytes)}"
        # A page that nobody has touched yet is EFAULT for direct I/O into a region.
        yield "mshare_region_prefault: true"
        if instance.unit:
            yield f"mshare_region_before: [{instance.unit}]"


def region_name(name: str) -> str:
    """A name that a region may have, out of an instance's."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[:128] or "sga"
