# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines to paste: huge pages for sysctl, settings of the database, variables of our roles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..host.huge_pages import controller_size
from ..host.segments import ANONYMOUS_KINDS
from ..survey.record import TAKES_HUGE_PAGES
from ..units import GIB, KIB, MIB, TIB, counted, format_size, round_up
from .facts import Facts, Host, Instance, Pool, Segment, takes_by_itself
from .names import region_name
from .outlook import Outlook
from .remedies import MOST_OF_MEMORY, POSTGRESQL_WITH_HUGE_PAGE_SIZE, own_setting

_HUGE_BYTES = 2 * MIB
_SPARE_PAGES = 8
_POOL_FILE = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
_POSTGRESQL_COUNTS_HUGE_PAGES = (15,)
# Of huge_page_size: its default, and 2 MiB.
_TAKES_2_MIB = ("0", "2MB", "2048kB", "2048")
# Names of the kernel's own, each of one segment; those that a program gave may be of several.
_ONE_SEGMENT = re.compile(r"inode [0-9]+|key 0x[0-9a-f]{8}, id [0-9]+")
_EXACT_UNITS = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))


@dataclass(frozen=True)
class Paste:
    """Lines by where they go; an empty tuple where nothing is to be written."""

    sysctl: tuple[str, ...]
    database: tuple[str, ...]
    inventory: tuple[str, ...]


class Planned(Protocol):
    """What the plan of an instance tells about what is left to do."""

    @property
    def name(self) -> str: ...
    @property
    def outlook(self) -> Outlook: ...
    def usable(self, identifier: str) -> bool: ...


def paste(facts: Facts, plans: Iterable[Planned], pools: Iterable[int]) -> Paste:
    """The lines for the instances that something is left to do for; those for which it is optional only
    where it is for all of them.

    `pools` are the connections of their poolers, in the order of the facts' instances.
    """
    plan_of = {plan.name: plan for plan in plans}
    left = [
        (instance, plan_of[instance.name], pool_to)
        for instance, pool_to in zip(facts.instances, pools)
        if instance.segments and instance.name in plan_of and plan_of[instance.name].outlook.remedy_id
    ]
    left = [entry for entry in left if not entry[1].outlook.optional] or left
    pooled = [
        instance
        for instance, planned, __ in left
        if planned.usable("hugetlb_2m") or planned.usable("preload_hugetlb")
    ]
    sharing = [
        instance for instance, planned, __ in left if planned.usable("mshare") or not facts.host.surveyed
    ]
    return Paste(
        tuple(pool_lines(facts.host, pooled, _takers(facts.instances, pooled))),
        tuple(
            line
            for instance, planned, pool_to in left
            for line in _database(instance, pool_to, planned.usable("hugetlb_2m"))
        ),
        tuple(_inventory(sharing)),
    )


def exact_size(size_bytes: int) -> str:
    """A size in the largest exact unit: what is pasted must not be rounded."""
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
        return f"{divided}, rounded up: {counted(self.count, 'page')}, {format_size(self.waste_bytes)} wasted"


def huge_pages(instance: Instance, page_bytes: int = _HUGE_BYTES) -> list[HugePages]:
    """Of each segment that can be in huge pages and is not: each begins with a page of its own."""
    return [HugePages(segment.size_bytes, page_bytes) for segment in _in_smaller_pages(instance, page_bytes)]


def in_the_pool(instances: Iterable[Instance]) -> Iterator[tuple[Instance, Segment]]:
    """The segments of several instances that need pages of the pool: one that two have mapped, like an Oracle
    and a tool that reads its SGA, is there once."""
    seen = set()
    for instance in instances:
        for segment in _in_smaller_pages(instance, _HUGE_BYTES):
            # An id of System V is for an IPC namespace only.
            namespace = instance.container if segment.kind == "sysv" else None
            segment_key = (namespace, segment.kind, segment.name, segment.size_bytes)
            if segment_key not in seen:
                yield instance, segment
            if _ONE_SEGMENT.fullmatch(segment.name):
                seen.add(segment_key)


def _in_smaller_pages(instance: Instance, page_bytes: int) -> Iterable[Segment]:
    return (
        segment
        for segment in instance.segments
        if segment.kind in ANONYMOUS_KINDS and segment.page_bytes < page_bytes
    )


def _takers(instances: Iterable[Instance], pooled: Sequence[Instance]) -> Iterable[Instance]:
    """The servers that nothing is to be done for, and that take pages of the pool as soon as they are started
    again and there are any: their settings say so."""
    for instance in instances:
        wanted = (instance.huge_pages_requested or "").lower() in TAKES_HUGE_PAGES.get(instance.kind, ())
        elsewhere = instance.region is not None or instance.preload is not None
        own_size = instance.settings.get("huge_page_size", "0") in _TAKES_2_MIB
        if wanted and own_size and not elsewhere and instance not in pooled:
            yield instance


def pool_lines(host: Host, instances: Sequence[Instance], takers: Iterable[Instance] = ()) -> Iterable[str]:
    """How large the pool of 2 MiB pages has to be, what of that is for whom, and where the number goes.

    `takers` are counted as well, for they take their pages before the others do.
    """
    # What takes them by itself is counted as such.
    needed = [
        (instance.name, HugePages(segment.size_bytes, _HUGE_BYTES))
        for instance, segment in in_the_pool(instances)
        if not takes_by_itself(instance.kind, segment)
    ]
    if not instances:
        return
    pool = host.pools.get(_HUGE_BYTES, Pool(0, 0))
    first = [
        (f"{name}: its OPcache takes huge pages first", HugePages(size_bytes, _HUGE_BYTES))
        for name, size_bytes in host.opcache
    ]
    spare = _SPARE_PAGES if host.surveyed else 0
    least = pool.used + sum(pages.count for __, pages in [*needed, *first]) + spare
    taken = {taker.name: sum(pages.count for pages in huge_pages(taker)) for taker in takers}
    taken_fit = _fits(host, pool, least + sum(taken.values()))
    count = max(pool.total, least + (sum(taken.values()) if taken_fit else 0))
    fits = _fits(host, pool, count)
    memory_bytes = host.memory_total_bytes
    yield f"# {_pool_file(host) if fits else 'No line to paste'}, for hugetlb 2 MiB"
    yield from (f"# {name}: {pages}" for name, pages in needed)
    yield from (f"# {who}: {counted(pages.count, 'page')}" for who, pages in first)
    for name, pages in taken.items():
        if not pages:
            continue
        how = "" if taken_fit else ", which do not fit: set huge_pages or use_large_pages off there first"
        yield f"# {name}: takes huge pages when it is restarted: {counted(pages, 'page')}{how}"
    yield from _parts(pool, count, spare)
    if memory_bytes is not None:
        yield _of_memory(count, host.other_pools_bytes(_HUGE_BYTES), memory_bytes, fits)
    yield from _bounds(instances)
    if fits:
        yield from _pool_setting(host, count)
        large = sum(HugePages(pages.size_bytes, GIB).count for __, pages in needed if pages.size_bytes >= GIB)
        if large and (not host.surveyed or GIB in host.pools):
            # Those that others have stay, as with the other size.
            before = host.pools.get(GIB, Pool(0, 0))
            whole = max(before.total, before.used + large)
            yield (
                f"# For hugetlb 1 GiB instead, on the kernel's command line: hugepagesz=1G hugepages={whole}"
            )


def _fits(host: Host, pool: Pool, count: int) -> bool:
    """Whether a pool of so many pages leaves enough RAM for the rest. What is there already takes no more."""
    memory_bytes = host.memory_total_bytes
    taken_bytes = count * _HUGE_BYTES + host.other_pools_bytes(_HUGE_BYTES)
    return memory_bytes is None or count <= pool.total or taken_bytes <= MOST_OF_MEMORY * memory_bytes


def _parts(pool: Pool, count: int, spare: int) -> Iterable[str]:
    """What the number has beyond the needs of the instances."""
    if pool.used:
        yield f"# In use already: {pool.used:,} more. The number is the whole pool, not what is added"
    if spare:
        yield f"# {counted(spare, 'page')} ({format_size(spare * _HUGE_BYTES)}) to spare"
    if pool.total and count == pool.total:
        yield f"# The pool is large enough already ({pool.total}); other programs may need the rest of it"
    if pool.nodes > 1:
        yield (
            f"# {pool.nodes} NUMA nodes: pages that the kernel takes from each: {-(-count // pool.nodes)};"
            " see /sys/devices/system/node/node*/hugepages"
        )


def _of_memory(count: int, others_bytes: int, memory_bytes: int, fits: bool) -> str:
    size_bytes = count * _HUGE_BYTES
    share = f"{format_size(size_bytes)} of {format_size(memory_bytes)} of RAM"
    beside = f" beside {format_size(others_bytes)} for pages of other sizes" if others_bytes else ""
    if not fits:
        return f"# {counted(count, 'page does', 'pages do')} not fit: {share}{beside}"
    left = format_size(max(0, memory_bytes - size_bytes - others_bytes))
    return f"# The pool is {share}{beside}: it leaves {left} for everything else"


def _bounds(instances: Iterable[Instance]) -> Iterable[str]:
    """The cgroups that allow less than is needed."""
    for instance in instances:
        for sentence in raise_first(instance, _HUGE_BYTES):
            yield f"# {instance.name}: {sentence}; raise it first"


def raise_first(instance: Instance, page_bytes: int) -> Iterable[str]:
    """The limits of cgroups that allow fewer huge pages than an instance needs.

    PostgreSQL and others would start all the same, and be killed (SIGBUS) when they use the pages.
    """
    need_bytes = sum(pages.count for pages in huge_pages(instance, page_bytes)) * page_bytes
    resource = f"hugetlb {controller_size(page_bytes)}"
    for limit in instance.limits:
        if limit.resource == resource and limit.limit_bytes < need_bytes:
            yield f"{limit.file} allows {format_size(limit.limit_bytes)} of {format_size(need_bytes)}"


def _pool_file(host: Host) -> str:
    return "/etc/sysctl.d/60-huge-pages.conf" if _is_default(host) else "/etc/tmpfiles.d/60-huge-pages.conf"


def _is_default(host: Host) -> bool:
    return host.huge_page_default_bytes in (None, _HUGE_BYTES)


def _pool_setting(host: Host, count: int) -> Iterable[str]:
    if _is_default(host):
        yield f"vm.nr_hugepages = {count}"
        yield "# The kernel may grant fewer than requested: compare HugePages_Total in /proc/meminfo."
        return
    yield (
        f"# vm.nr_hugepages counts pages of {format_size(host.huge_page_default_bytes or 0)} on this host,"
        " the default size of its huge pages"
    )
    yield f"w {_POOL_FILE} - - - - {count}"
    yield "# The kernel may grant fewer than were asked for: read the file back."


def _database(instance: Instance, pool_to: int, pooled: bool) -> Iterable[str]:
    own = own_setting(instance)
    if own is not None and pooled:
        yield f"# {instance.name}, for hugetlb 2 MiB; takes effect at a restart"
        yield f"# {own}"
    if instance.kind not in _SETTINGS:
        return
    if pooled:
        yield from _SETTINGS[instance.kind](instance)
    if instance.kind in ("postgresql", "wish") and pool_to < instance.clients_maximum:
        yield "# For connection pooling, pgbouncer.ini: pool_mode = transaction,"
        yield f"#   default_pool_size = {pool_to} (per user and database),"
        yield f"#   max_client_conn = {instance.clients_maximum}"


_PLACES = {
    "patroni": "Patroni, `patronictl edit-config`, under postgresql: parameters: (name: value) for {name}",
    "kubernetes": "the operator's resource for {name}, under its PostgreSQL parameters; the pod needs a limit"
    " hugepages-2Mi",
    "container": "the command of the container of {name} (-c name=value); its hugetlb limit must allow it",
}


def _postgresql(instance: Instance) -> Iterable[str]:
    name = instance.name
    where = "postgresql.conf if it is PostgreSQL" if instance.kind == "wish" else f"postgresql.conf of {name}"
    if instance.manager in _PLACES:
        where = _PLACES[instance.manager].format(name=name)
    yield f"# {where}, for hugetlb 2 MiB; takes effect at a restart"
    # `try`, the default, falls back to small pages and says so only in the log.
    yield "huge_pages = on"
    version = instance.major_version
    if version is None or version >= POSTGRESQL_WITH_HUGE_PAGE_SIZE:
        yield "huge_page_size = 2MB    # 1GB for hugetlb 1 GiB; PostgreSQL 14 and later"
    if version is None or version >= _POSTGRESQL_COUNTS_HUGE_PAGES:
        yield "# How many pages it needs (PostgreSQL 15 and later): SHOW shared_memory_size_in_huge_pages"


def _oracle(instance: Instance) -> Iterable[str]:
    yield f"-- SQL*Plus on {instance.name}, for hugetlb 2 MiB; memory_target must be 0, memlock unlimited"
    yield "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;"


# Without a survey the database is not known.
_SETTINGS = {"postgresql": _postgresql, "oracle": _oracle, "wish": _postgresql}


def _inventory(instances: Iterable[Instance]) -> Iterable[str]:
    """Variables of the role `region`, for instances whose processes could share a region."""
    sharing = [instance for instance in instances if instance.clients_maximum > 1 and not instance.setuid]
    if len(sharing) > 1:
        yield "# The role makes one region a run: one block for each run."
    for instance in sharing:
        size_bytes = sum(round_up(segment.size_bytes, _HUGE_BYTES) for segment in instance.segments)
        yield f"# {instance.name}: role dbmem.mshare.region, on a kernel with mshare"
        yield f"mshare_region_name: {region_name(instance.name)}"
        yield f"mshare_region_size: {exact_size(size_bytes)}"
        # A page that nobody has touched yet is EFAULT for direct I/O into a region.
        yield "mshare_region_prefault: true"
        if instance.unit:
            yield f"mshare_region_before: [{instance.unit}]"
