# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many huge pages a host needs (auto), as terms that each say where their figure comes from.

    pages = what each instance needs at its next start + what others hold + spare

What an instance holds already is in the kernel's count of used pages as well; so `others` is that count
without the pages of the instances. The result is the same before and after they are restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import Conflict, InvalidRequest, Unavailable
from ..host import huge_pages
from ..host.huge_pages import Pool
from ..postgresql import sizing
from ..survey.record import OPCACHE_KINDS, InstanceRecord, SegmentRecord, Survey, full_names
from ..units import GIB, KIB, MIB, counted, format_size, parse_size
from .spec import HugePagesSpec, PoolRequest

TermKind = Literal["measured", "configured", "modelled", "requested"]
Ask = Callable[[sizing.Server, int], int]
"""What asks a PostgreSQL for the huge pages of a size that it needs."""

_MEMORY_KINDS = ("anonymous", "sysv", "memfd", "posix", "hugetlb")
_POOLED_KINDS = ("anonymous", "sysv", "memfd", "hugetlb")
"""Segments that a program can have from the pool, or has."""
# The rest of a PostgreSQL's segment, beside its buffers, where PostgreSQL cannot say: locks, WAL buffers.
_BESIDE_BUFFERS_SHARE, _BESIDE_BUFFERS_BYTES = 16, 16 * MIB
_POSTGRESQL_UNITS = {"": 8 * KIB, "B": 1, "kB": KIB, "MB": MIB, "GB": GIB, "TB": 1 << 40}
_ORACLE_SEGMENTS = 4
"""An SGA begins each of its segments with a page of its own; there are about so many."""


@dataclass(frozen=True)
class Term:
    """One summand of a pool's pages."""

    what: str
    pages: int
    source: str
    kind: TermKind


@dataclass(frozen=True)
class Need:
    """What an instance needs of the pool of one page size."""

    name: str
    pages: int
    held: int
    """What it has of it now."""
    source: str
    kind: TermKind


def held_pages(instance: InstanceRecord, page_bytes: int) -> int:
    """Pages of a pool that an instance has mapped."""
    return sum(
        _pages(segment.size_bytes, page_bytes)
        for segment in instance.segments
        if segment.kind == "hugetlb" and segment.page_bytes == page_bytes
    )


def _pages(size_bytes: int, page_bytes: int) -> int:
    return -(-size_bytes // page_bytes)


def terms(
    request: PoolRequest,
    spec: HugePagesSpec,
    survey: Survey,
    pool: Pool,
    ask: Ask = sizing.huge_pages,
) -> tuple[Term, ...]:
    """The terms of a host's pool that is as large as the host needs; their sum is its pages.

    Raises InvalidRequest for an instance that the survey does not have, Conflict for one whose cgroup
    allows less than it needs.
    """
    page_bytes = request.page_bytes
    needs = []
    result = []
    for instance in _chosen(survey, spec):
        # Who is named is counted.
        reason = None if spec.instances else _not_counted(instance, page_bytes, survey)
        if reason is not None:
            result.append(Term(instance.name, 0, reason, "configured"))
            continue
        need = need_of(instance, page_bytes, ask)
        _require_allowed(instance, need, page_bytes)
        needs.append(need)
        result.append(Term(need.name, need.pages, need.source, need.kind))
        if need.held > need.pages:
            source = f"its segments in the pool; it needs {need.pages} after its next restart"
            result.append(
                Term(f"{need.name}, until it is restarted", need.held - need.pages, source, "measured")
            )
    place = huge_pages.nr_file(page_bytes).rpartition("/")[0]
    others = max(0, pool.used - sum(need.held for need in needs))
    if others:
        result.append(Term("pages that others hold", others, f"in use or reserved in {place}", "measured"))
    spare = spec.spare_of(page_bytes)
    if spare:
        result.append(Term("spare", spare, "spare", "requested"))
    return tuple(result)


def _chosen(survey: Survey, spec: HugePagesSpec) -> list[InstanceRecord]:
    """The instances that are looked at, in the survey's order."""
    if spec.instances:
        names = full_names(survey, spec.instances)
        return [instance for instance in survey.instances if instance.name in names]
    return [instance for instance in survey.instances if instance.kind in _NEEDS]


def _not_counted(instance: InstanceRecord, page_bytes: int, survey: Survey) -> str | None:
    """Why an instance takes no pages of that size at its next start; None if it does."""
    setting = (instance.huge_pages_requested or "").lower()
    if instance.kind == "postgresql":
        if setting == "off":
            return "huge_pages is off; name it in instances to count it all the same"
        own_bytes = postgresql_bytes(instance.settings.get("huge_page_size", "0"), KIB)
        if (own_bytes or survey.host.huge_page_default_bytes) != page_bytes:
            return f"it takes pages of {format_size(own_bytes or survey.host.huge_page_default_bytes or 0)}"
    if instance.kind == "oracle":
        if is_grid(instance):
            return "it is an instance of Grid Infrastructure; name it in instances to count it all the same"
        if setting == "false":
            return "use_large_pages is false; name it in instances to count it all the same"
        if memory_target(instance) is not None:
            return (
                "memory_target is set, with which Oracle uses no huge pages; name it in instances to count it"
            )
        if page_bytes != survey.host.huge_page_default_bytes:
            return "its huge pages are those of the default size"
    if instance.kind in OPCACHE_KINDS and page_bytes != 2 * MIB:
        return "its OPcache takes pages of 2 MiB"
    return None


def is_grid(instance: InstanceRecord) -> bool:
    """Whether an Oracle is one of Grid Infrastructure (+ASM, +APX, -MGMTDB): their names say so."""
    return (instance.sid or "")[:1] in ("+", "-")


def memory_target(instance: InstanceRecord) -> str | None:
    """The setting of an Oracle that keeps its SGA out of huge pages; None if it is not set."""
    for name in ("memory_target", "memory_max_target"):
        value = instance.settings.get(name, "0")
        # 0M is 0 as well; what is no size is none of ours to judge.
        if oracle_bytes(value) or not value.strip("kKmMgGtT").isdigit():
            return name
    return None


def _require_allowed(instance: InstanceRecord, need: Need, page_bytes: int) -> None:
    """Conflict where a cgroup of the instance allows fewer huge pages than it needs."""
    size = huge_pages.controller_size(page_bytes)
    for limit in instance.limits:
        if limit.resource == f"hugetlb {size}" and limit.limit_bytes < need.pages * page_bytes:
            raise Conflict(
                f"{instance.name} needs {counted(need.pages, 'huge page')}"
                f" ({format_size(need.pages * page_bytes)}),"
                f" but its cgroup allows {format_size(limit.limit_bytes)} ({limit.file}); raise that"
                " limit first"
            )


def need_of(instance: InstanceRecord, page_bytes: int, ask: Ask = sizing.huge_pages) -> Need:
    """What an instance needs of the pool of a page size at its next start."""
    held = held_pages(instance, page_bytes)
    pages, source, kind = _NEEDS.get(instance.kind, _by_segments)(instance, page_bytes, ask)
    return Need(instance.name, pages, held, source, kind)


def wanted_pages(survey: Survey, pool: Pool) -> int:
    """How many pages a pool needs for those that take huge pages by themselves, and for who holds some.

    For a glance, as often as somebody likes: no server is asked, so what a PostgreSQL needs is modelled or
    measured, and nothing is refused.
    """
    needs = [
        need_of(instance, pool.page_bytes, _unasked)
        for instance in survey.instances
        if instance.kind in _NEEDS and _not_counted(instance, pool.page_bytes, survey) is None
    ]
    others = max(0, pool.used - sum(need.held for need in needs))
    return others + sum(max(need.pages, need.held) for need in needs)


def _unasked(server: sizing.Server, page_bytes: int) -> int:
    raise sizing.Unanswered("it was not asked")


_Figure = tuple[int, str, TermKind]


def _by_segments(instance: InstanceRecord, page_bytes: int, ask: Ask) -> _Figure:
    sizes = [segment.size_bytes for segment in _memory(instance, _POOLED_KINDS)]
    return sum(_pages(size, page_bytes) for size in sizes), _segments_source(sizes), "measured"


def _memory(instance: InstanceRecord, kinds: Sequence[str]) -> list[SegmentRecord]:
    return [segment for segment in instance.segments if segment.kind in kinds and not segment.short_lived]


def _segments_source(sizes: Sequence[int]) -> str:
    return (
        f"its shared segments, {format_size(sum(sizes))} in {len(sizes)}" if sizes else "no shared segments"
    )


def _opcache(instance: InstanceRecord, page_bytes: int, ask: Ask) -> _Figure:
    pages, source, kind = _by_segments(instance, page_bytes, ask)
    return pages, f"its OPcache takes huge pages first; {source}", kind


def _postgresql(instance: InstanceRecord, page_bytes: int, ask: Ask) -> _Figure:
    try:
        return _asked(instance, page_bytes, ask), f"postgres -C {sizing.PARAMETER}", "configured"
    except sizing.Unanswered as error:
        why = str(error)
    measured, source, __ = _by_segments(instance, page_bytes, ask)
    buffers_bytes = postgresql_bytes(instance.settings.get("shared_buffers", "0"), 8 * KIB)
    modelled = 0
    if buffers_bytes:
        rest_bytes = buffers_bytes // _BESIDE_BUFFERS_SHARE + _BESIDE_BUFFERS_BYTES
        modelled = _pages(buffers_bytes + rest_bytes, page_bytes)
    if modelled > measured:
        return (
            modelled,
            f"shared_buffers of {format_size(buffers_bytes)}, and 1/{_BESIDE_BUFFERS_SHARE} of that and"
            f" {format_size(_BESIDE_BUFFERS_BYTES)} for the rest, because {why}",
            "modelled",
        )
    return measured, f"{source}, because {why}", "measured"


def _asked(instance: InstanceRecord, page_bytes: int, ask: Ask) -> int:
    sizing.require_counting(instance.version or "")
    if instance.executable is None or instance.data_directory is None:
        raise sizing.Unanswered("its program or data directory may not be read")
    # After an upgrade of its package, the next start runs what is at the same path now.
    program = instance.executable.replace(" (deleted)", "")
    return ask(sizing.Server(min(instance.pids), program, instance.data_directory), page_bytes)


def postgresql_bytes(value: str, unit_bytes: int) -> int:
    """A setting's size; a bare number counts in the setting's own unit. 0 for what is no size."""
    number = value.rstrip("BkMGTb ")
    unit = value[len(number) :].strip()
    if not number.isdigit() or unit not in _POSTGRESQL_UNITS:
        return 0
    return int(number) * (_POSTGRESQL_UNITS[unit] if unit else unit_bytes)


def _oracle(instance: InstanceRecord, page_bytes: int, ask: Ask) -> _Figure:
    sizes = [segment.size_bytes for segment in _memory(instance, _MEMORY_KINDS)]
    measured = sum(_pages(size, page_bytes) for size in sizes)
    name, configured_bytes = max(
        ((name, oracle_bytes(instance.settings.get(name))) for name in ("sga_max_size", "sga_target")),
        key=lambda pair: pair[1],
    )
    configured = _pages(configured_bytes, page_bytes) + _ORACLE_SEGMENTS if configured_bytes else 0
    if configured > measured:
        return (
            configured,
            f"{name} of {format_size(configured_bytes)}, and a page for each of {_ORACLE_SEGMENTS} segments",
            "configured",
        )
    return measured, _segments_source(sizes), "measured"


def oracle_bytes(value: str | None) -> int:
    """A size in a parameter file, like 16G or 17179869184; 0 for none."""
    try:
        return parse_size(value) if value else 0
    except InvalidRequest:
        return 0


# The programs that take huge pages by themselves; all others only if they are named.
_NEEDS: dict[str, Callable[[InstanceRecord, int, Ask], _Figure]] = {
    "postgresql": _postgresql,
    "oracle": _oracle,
    **dict.fromkeys(OPCACHE_KINDS, _opcache),
}


# -- the pools that are wanted


@dataclass(frozen=True)
class Target:
    """How many pages a pool should have, and why."""

    page_bytes: int
    node: int | None
    wanted: int
    formula: tuple[Term, ...]


def targets(
    spec: HugePagesSpec,
    survey: Survey | None,
    pools: dict[tuple[int, int | None], Pool],
    ask: Ask = sizing.huge_pages,
    floors: Mapping[tuple[int, int | None], int] | None = None,
) -> tuple[Target, ...]:
    """The pools that are asked for; `survey` is needed where one is as large as the host needs.

    `floors` are pages that others reserved, perhaps for a database that is stopped: such a pool may be
    larger than the host needs now, and is not made smaller.

    Unavailable for a page size or a node that the kernel does not have.
    """
    for request in spec.pools:
        _require_pool(request, pools)
    result = []
    for page_bytes in sorted({request.page_bytes for request in spec.pools}):
        requests = [request for request in spec.pools if request.page_bytes == page_bytes]
        automatic = [request for request in requests if request.wanted is None]
        shared: tuple[Term, ...] = ()
        if automatic:
            assert survey is not None
            shared = terms(automatic[0], spec, survey, pools[(page_bytes, None)], ask)
        given = sum(request.wanted or 0 for request in requests)
        for request in requests:
            pool = pools[(page_bytes, request.node)]
            if request.wanted is not None:
                formula: tuple[Term, ...] = (Term("asked for", request.wanted, "wanted", "requested"),)
            elif request.node is None:
                formula = shared
            else:
                formula = _part(shared, given, len(automatic), pool)
            pages = sum(term.pages for term in formula)
            floor = (floors or {}).get((page_bytes, request.node), 0)
            if request.wanted is None and floor > pages:
                source = "reserved by others, perhaps for what does not run now"
                formula = (
                    *formula,
                    Term("free pages that were there before", floor - pages, source, "measured"),
                )
                pages = floor
            result.append(Target(page_bytes, request.node, pages, formula))
    return tuple(result)


def _part(shared: Iterable[Term], given: int, parts: int, pool: Pool) -> tuple[Term, ...]:
    """A node's part of what the host needs: the same on each node, and no less than is in use there."""
    host = tuple(shared)
    total = max(0, sum(term.pages for term in host) - given)
    sum_text = " + ".join(f"{term.what} {term.pages}" for term in host) or "0"
    minus = f" - {given} on other nodes" if given else ""
    share = -(-total // parts)
    formula = [Term(f"1/{parts} of what the host needs", share, f"{sum_text}{minus}", _weakest(host))]
    if pool.used > share:
        formula.append(Term("pages in use beyond that", pool.used - share, "the node's pool", "measured"))
    return tuple(formula)


_STRENGTH: tuple[TermKind, ...] = ("measured", "configured", "requested", "modelled")


def _weakest(parts: Iterable[Term]) -> TermKind:
    return max((term.kind for term in parts), key=_STRENGTH.index, default="measured")


def _require_pool(request: PoolRequest, pools: dict[tuple[int, int | None], Pool]) -> None:
    sizes = sorted({size for size, node in pools if node is None})
    if request.page_bytes not in sizes:
        has = ", ".join(map(format_size, sizes))
        raise Unavailable(
            f"this kernel has no huge pages of {format_size(request.page_bytes)}; it has"
            f" {f'those of {has}' if has else 'none at all'}"
        )
    if (request.page_bytes, request.node) not in pools:
        nodes = sorted({node for __, node in pools if node is not None})
        raise Unavailable(
            f"this host has no NUMA node {request.node} with huge pages; it has"
            f" {'node ' + ', '.join(map(str, nodes)) if nodes else 'none'}"
        )
