# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures that alerts need, of one host at one moment: one record for metrics, modules and `--json`.

What the fields mean is in `metrics`; a metric has the name of its field. None is what is not known. Figures
at the configured maximum are projected or modelled, all others are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import reduce
from typing import Any

from ..backends import root as roots
from ..errors import MshareError, sentence
from ..host.huge_pages import Pool
from ..huge_pages.need import wanted_pages
from ..info import inventory
from ..info.facts import RegionFacts
from ..pagetable import BASE_PAGE_BYTES
from ..plan import outlook
from ..plan.facts import Facts, Instance, from_survey
from ..plan.outlook import Outlook
from ..plan.plan import plan
from ..survey.record import InstanceRecord, Survey
from ..units import format_size
from .asked import Asked
from .identity import Identity, identity

_NO_REMEDY = "none"
_DATABASES = ("postgresql", "oracle")
_OFF = ("off", "false", "no", "0", "none")
_SERIES_MOST = 200
"""Of instances on a host: a dashboard is useful up to some dozens, and everybody can start programs."""
_REST = Identity(kind="rest", program="rest", data_directory="", sid="", unit="", container="", port="")
_UNSEEN = ("unknown", "unreadable")
"""States of what may not be read, which says nothing about whether it runs."""


@dataclass(frozen=True)
class HostFigures:
    """The host's memory, and what its page tables take of it."""

    memory_bytes: int
    memory_available_bytes: int
    page_tables_bytes: int
    page_tables_ratio: float
    page_tables_maximum_bytes: int
    others_page_tables_bytes: int
    will_run_out: bool


@dataclass(frozen=True)
class PoolFigures:
    """The host's pool of huge pages of one size."""

    page_size: str
    size_bytes: int
    free_bytes: int
    reserved_bytes: int
    available_bytes: int
    wanted_bytes: int
    unused: bool


@dataclass(frozen=True)
class InstanceFigures:
    """A database server, or another program whose processes share memory."""

    kind: str
    program: str
    data_directory: str
    sid: str
    unit: str
    container: str
    port: str
    processes: int
    processes_maximum: int | None
    page_tables_bytes: int
    page_tables_ratio: float
    page_tables_maximum_bytes: int
    page_tables_room_bytes: int | None
    page_tables_remainder_bytes: int | None
    page_tables_largest_bytes: int
    shared_memory_bytes: int
    shared_memory_huge_bytes: int
    huge_pages: bool
    huge_pages_fallback: bool
    preload_lost: bool
    will_run_out: bool
    remedy: str
    remedy_open: bool
    remedy_saving_bytes: int


@dataclass(frozen=True)
class RegionFigures:
    """A region of mshare, its owner and its clients."""

    root: str
    region: str
    owner_alive: bool | None
    healthy: bool | None
    window_bytes: int | None
    mapped_bytes: int | None
    clients_requested: int | None
    clients_attached: int | None
    clients_dead: int | None


@dataclass(frozen=True)
class SurveyFigures:
    """The survey that all the figures come from."""

    timestamp_seconds: float
    duration_seconds: float
    complete: bool
    processes: int
    instances: int
    instances_combined: int
    unread: int
    unread_processes: int
    unread_instances: int
    vanished_processes: int


@dataclass(frozen=True)
class Figures:
    """Everything."""

    host: HostFigures
    pools: tuple[PoolFigures, ...]
    instances: tuple[InstanceFigures, ...]
    regions: tuple[RegionFigures, ...]
    survey: SurveyFigures


@dataclass(frozen=True)
class Answer(Survey):
    """A survey, and the figures that are made of it: what `mshare survey --json` prints."""

    figures: Figures


def answer(survey: Survey) -> Answer:
    """A survey of this host with its figures."""
    return Answer(**vars(survey), figures=figures(survey))


def figures(
    survey: Survey, regions: Iterable[RegionFacts] | None = None, asked: Asked | None = None
) -> Figures:
    """The figures of a survey of this host; regions, and what was asked for, are read now if not given.

    Instances that cannot be told apart after a restart are one: their figures are added up. So are, where
    there are very many, those with the smallest page tables.
    """
    facts = from_survey(survey)
    outlooks = _outlooks(facts)
    asked = Asked.on_this_host() if asked is None else asked
    merged: dict[Identity, InstanceFigures] = {}
    for surveyed, instance, expected in zip(survey.instances, facts.instances, outlooks):
        item = _instance(survey, surveyed, instance, expected, asked)
        key = identity(surveyed)
        merged[key] = _together(merged[key], item) if key in merged else item
    instances, combined = _bounded(list(merged.values()))
    unread = list(asked.unread)
    seen = _regions(unread) if regions is None else regions
    return Figures(
        host=_host(survey, facts, outlooks),
        pools=tuple(_pool(survey, pool) for pool in survey.host.huge_page_pools if pool.node is None),
        instances=tuple(instances),
        regions=tuple(map(_region, seen)),
        survey=_survey(survey, combined, len(unread)),
    )


def _regions(unread: list[str]) -> list[RegionFacts]:
    """The regions of this host; `unread` gets a sentence for each root that this user may not read."""
    found = []
    for root in roots.roots():
        try:
            found += [inventory.region_facts(root, name) for name in inventory.region_names(root)]
        except (MshareError, OSError) as error:
            unread.append(sentence(error))
    return found


# -- the host


def _host(survey: Survey, facts: Facts, outlooks: list[Outlook]) -> HostFigures:
    host = survey.host
    growth_bytes = sum(_maximum_bytes(each) - (each.today_bytes or 0) for each in outlooks)
    return HostFigures(
        memory_bytes=host.memory_total_bytes,
        memory_available_bytes=host.memory_available_bytes,
        page_tables_bytes=host.page_tables_bytes,
        page_tables_ratio=_ratio(host.page_tables_bytes, survey),
        page_tables_maximum_bytes=host.page_tables_bytes + growth_bytes,
        others_page_tables_bytes=survey.others.page_tables_bytes,
        will_run_out=outlook.of_host(facts, outlooks).verdict == "will_run_out",
    )


def _ratio(size_bytes: int, survey: Survey) -> float:
    return round(size_bytes / survey.host.memory_total_bytes, 6) if survey.host.memory_total_bytes else 0.0


def _maximum_bytes(expected: Outlook) -> int:
    """Page tables at the maximum: what is modelled from samples may be a little less than what there is."""
    return max(expected.at_maximum_bytes, expected.today_bytes or 0)


def _pool(survey: Survey, pool: Pool) -> PoolFigures:
    total, free = pool.total or 0, pool.free or 0
    return PoolFigures(
        page_size=format_size(pool.page_bytes).replace(" ", ""),
        size_bytes=total * pool.page_bytes,
        free_bytes=free * pool.page_bytes,
        reserved_bytes=(pool.reserved or 0) * pool.page_bytes,
        available_bytes=max(0, pool.available) * pool.page_bytes,
        wanted_bytes=wanted_pages(survey, pool) * pool.page_bytes,
        unused=total > 0 and pool.used == 0,
    )


# -- instances


def _outlooks(facts: Facts) -> list[Outlook]:
    """What the plan expects of each instance, in the facts' order."""
    planned = {each.name: each.outlook for each in plan(facts).instances}
    return [planned.get(instance.name) or _unplanned(facts, instance) for instance in facts.instances]


def _unplanned(facts: Facts, instance: Instance) -> Outlook:
    """Of an instance that has no shared memory: no remedy, but it takes memory with each process."""
    at_bytes = instance.remainder_at(instance.clients_maximum)
    return outlook.of_instance(facts, instance, at_bytes, "projected", ())


def _instance(
    survey: Survey, surveyed: InstanceRecord, instance: Instance, expected: Outlook, asked: Asked
) -> InstanceFigures:
    tables = surveyed.page_tables
    huge = bool(instance.segments) and all(segment.is_huge for segment in instance.segments)
    lasting = [segment for segment in surveyed.segments if not segment.short_lived]
    remedy = None if expected.done else expected.remedy_id
    maximum = surveyed.processes_maximum
    # What its processes share counts once, as in the plan that the maximum is from.
    tables_bytes = instance.tables_bytes or 0
    return InstanceFigures(
        **vars(identity(surveyed)),
        processes=surveyed.processes,
        processes_maximum=None if maximum is None else maximum.value,
        page_tables_bytes=tables_bytes,
        page_tables_ratio=_ratio(tables_bytes, survey),
        page_tables_maximum_bytes=_maximum_bytes(expected),
        page_tables_room_bytes=expected.available_bytes,
        page_tables_remainder_bytes=tables.remainder_bytes,
        page_tables_largest_bytes=tables.maximum_bytes,
        shared_memory_bytes=sum(segment.size_bytes for segment in lasting),
        shared_memory_huge_bytes=sum(
            segment.size_bytes
            if segment.page_bytes > BASE_PAGE_BYTES
            else min(segment.huge_bytes, segment.size_bytes)
            for segment in lasting
        ),
        huge_pages=huge,
        huge_pages_fallback=bool(instance.segments) and not huge and _asks_for_huge_pages(survey, surveyed),
        preload_lost=_preload_lost(surveyed, asked),
        will_run_out=expected.verdict == "will_run_out",
        remedy=remedy or _NO_REMEDY,
        remedy_open=remedy is not None and not expected.optional,
        remedy_saving_bytes=expected.saving_bytes if remedy else 0,
    )


def _asks_for_huge_pages(survey: Survey, surveyed: InstanceRecord) -> bool:
    """Whether an instance asks for huge pages: in so many words, or by default where there is a pool."""
    if surveyed.preload in ("thp", "hugetlb"):
        return True
    asked = surveyed.huge_pages_requested
    if surveyed.kind not in _DATABASES or (asked or "").lower() in _OFF:
        return False
    written = "huge_pages" in surveyed.settings or (surveyed.kind == "oracle" and asked is not None)
    has_pool = any(pool.total for pool in survey.host.huge_page_pools if pool.node is None)
    return written or (asked is not None and has_pool)


def _preload_lost(surveyed: InstanceRecord, asked: Asked) -> bool:
    """Asked for by its environment and not mapped, or set up and seen once, and not asked for any more."""
    if surveyed.preload_mapped is not None:
        return not surveyed.preload_mapped
    return surveyed.preload is None and asked.of(surveyed)


_COMBINED: dict[str, Callable[..., object]] = {
    "page_tables_room_bytes": min,
    "page_tables_largest_bytes": max,
    "huge_pages": min,
    "huge_pages_fallback": max,
    "preload_lost": max,
    "will_run_out": max,
    "remedy_open": max,
}
"""What becomes of the figures of two instances that are one series; all else is added up."""


def _together(first: InstanceFigures, second: InstanceFigures) -> InstanceFigures:
    larger = max((first, second), key=lambda item: (item.remedy_open, item.remedy_saving_bytes))
    # Any: by the names of fields, each of its own type.
    values: dict[str, Any] = {"remedy": larger.remedy}
    for name in _VALUES:
        pair = getattr(first, name), getattr(second, name)
        values[name] = None if None in pair else _COMBINED.get(name, _sum)(*pair)
    return replace(first, **values)


def _sum(first: float, second: float) -> float:
    return first + second


def _bounded(instances: list[InstanceFigures]) -> tuple[list[InstanceFigures], int]:
    """The instances, the last of them standing for those that were too many; and how many these are."""
    if len(instances) <= _SERIES_MOST:
        return instances, 0
    # Databases first: they are what alerts are about.
    ranked = sorted(instances, key=_weight, reverse=True)
    rest = reduce(_together, ranked[_SERIES_MOST - 1 :])
    return [*ranked[: _SERIES_MOST - 1], replace(rest, **vars(_REST))], len(instances) - _SERIES_MOST + 1


def _weight(item: InstanceFigures) -> tuple[bool, int]:
    return item.kind in _DATABASES, item.page_tables_maximum_bytes


_LABELS = {field.name for field in fields(Identity)}
_VALUES = [
    field.name for field in fields(InstanceFigures) if field.name not in _LABELS and field.name != "remedy"
]


# -- regions, and the survey itself


def _region(facts: RegionFacts) -> RegionFigures:
    owner, clients = facts.owner, facts.clients
    unseen = clients is not None and clients.state in _UNSEEN
    return RegionFigures(
        root=facts.root,
        region=facts.name,
        owner_alive=None if owner.state in _UNSEEN and not owner.alive else owner.alive,
        healthy=None if facts.health in _UNSEEN else facts.health == "healthy",
        window_bytes=facts.window_bytes,
        mapped_bytes=facts.mapped_bytes,
        clients_requested=clients.requested if clients is not None else 0,
        clients_attached=clients.attached if clients is not None else 0,
        clients_dead=None if unseen else len(clients.dead) if clients is not None else 0,
    )


def _survey(survey: Survey, combined: int, unread_files: int) -> SurveyFigures:
    unread = {item.pid for item in survey.missing if item.pid is not None}
    return SurveyFigures(
        timestamp_seconds=datetime.fromisoformat(survey.created_at).timestamp(),
        duration_seconds=round(survey.method.duration_ms / 1000, 4),
        complete=survey.complete and not unread_files,
        processes=sum(each.processes for each in survey.instances) + survey.others.processes,
        instances=len(survey.instances),
        instances_combined=combined,
        unread=len(survey.missing) + unread_files,
        unread_processes=len(unread),
        unread_instances=sum(not unread.isdisjoint(each.pids) for each in survey.instances),
        vanished_processes=survey.vanished,
    )
