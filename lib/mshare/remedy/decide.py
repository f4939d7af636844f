# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which remedy each PostgreSQL of a host gets: from a survey, its plan, and what an earlier run chose.

Refuses what is not to be changed before anything is: a server that something else manages, a remedy that is
not open to a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import Conflict
from ..huge_pages.need import postgresql_bytes
from ..plan import facts
from ..plan.plan import InstancePlan, Plan, plan
from ..postgresql import clusters, native
from ..postgresql.clusters import Cluster
from ..postgresql.managers import choose, evidence
from ..postgresql.managers.patroni import PATRONI
from ..postgresql.spec import NATIVE, ClusterSpec
from ..survey.record import TAKES_HUGE_PAGES, InstanceRecord, Survey, full_names
from ..units import KIB, MIB, format_size
from .recorded import Entry, Recorded
from .spec import AUTO, COLLAPSE, HUGETLB, POOLED, THP, RemedySpec

_ROWS = {NATIVE: "hugetlb_2m", HUGETLB: "preload_hugetlb", THP: "preload_thp", COLLAPSE: "collapse"}
"""The plan's rows, by the remedies that can be applied."""
_LARGER_PAGES = "hugetlb_1g"
_REMEDIES = {row: remedy for remedy, row in _ROWS.items()}
POOL_PAGE_BYTES = 2 * MIB
"""The size of the pages that a remedy reserves; others have to be there."""


@dataclass(frozen=True)
class Choice:
    """What a cluster gets."""

    instance: str
    """Its name in the survey."""
    cluster: Cluster
    remedy: str
    spec: ClusterSpec | None
    """What its server is to be started with; None for one that is collapsed where it is."""
    page_bytes: int | None
    """The pool that it takes pages of; None for one that needs no pool."""
    why: str


@dataclass(frozen=True)
class Passed:
    """An instance for which nothing is done, and why."""

    instance: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """What is to be done on a host."""

    choices: tuple[Choice, ...]
    passed: tuple[Passed, ...]
    plan: Plan


def decide(spec: RemedySpec, survey: Survey, recorded: Recorded) -> Decision:
    """Choose for each instance. Raises what is refused: InvalidRequest for an instance that is not there,
    Conflict for a remedy that is not open or a server that something else manages."""
    made = plan(facts.from_survey(survey))
    spec = replace(spec, instances=full_names(survey, spec.instances))
    choices: list[Choice] = []
    passed: list[Passed] = []
    plans = {each.name: each for each in made.instances}
    for instance in survey.instances:
        if spec.instances and instance.name not in spec.instances:
            continue
        outcome = _of_instance(spec, instance, plans.get(instance.name), recorded, survey)
        if isinstance(outcome, Choice):
            choices.append(outcome)
        else:
            passed.append(outcome)
    return Decision(tuple(choices), tuple(passed), made)


def _of_instance(
    spec: RemedySpec,
    instance: InstanceRecord,
    planned: InstancePlan | None,
    recorded: Recorded,
    survey: Survey,
) -> Choice | Passed:
    if instance.kind != "postgresql":
        return Passed(instance.name, f"it is no PostgreSQL; `mshare plan` has what {instance.kind} needs")
    if instance.data_directory is None:
        return Passed(instance.name, "its data directory may not be read; run as root (become: true)")
    entry = None if instance.container else recorded.of(instance.data_directory)
    if entry is not None and spec.remedy in (AUTO, entry.remedy):
        cluster = _cluster(instance)
        cluster_spec = _spec_of(entry, spec)
        page_bytes = _page_bytes(instance, cluster_spec, survey)
        why = "an earlier run chose it"
        return Choice(instance.name, cluster, entry.remedy, cluster_spec, page_bytes, why)
    if planned is None:
        return Passed(instance.name, "it has no shared memory of 2 MiB or more")
    if entry is None and planned.outlook.done and (spec.remedy == AUTO or _is_done(instance, planned)):
        return Passed(instance.name, f"nothing to do: {planned.outlook.done}")
    remedy = spec.remedy
    if remedy == AUTO:
        chosen = _REMEDIES.get(planned.outlook.remedy_id or "")
        if chosen is None:
            best = planned.outlook.remedy or planned.outlook.done or "nothing"
            return Passed(
                instance.name,
                f"the plan recommends {best}, which is not applied here; mshare_remedy names another remedy",
            )
        if planned.outlook.optional:
            best = (
                f"{chosen} would save {format_size(planned.outlook.saving_bytes)}, less than 1 % of the RAM"
            )
            return Passed(
                instance.name, f"nothing to do: {best}; mshare_remedy={chosen} applies it all the same"
            )
        remedy = chosen
    _require_supported(instance)
    cluster_spec = _spec(remedy, instance, planned, spec, entry)
    why = "the plan recommends it" if spec.remedy == AUTO else "it was asked for"
    page_bytes = _page_bytes(instance, cluster_spec, survey)
    return Choice(instance.name, _cluster(instance), remedy, cluster_spec, page_bytes, why)


def _page_bytes(instance: InstanceRecord, wanted: ClusterSpec | None, survey: Survey) -> int | None:
    """The size of the pages that a server takes from the pool with a spec; None if it takes none."""
    if wanted is None or wanted.pages not in POOLED:
        return None
    return _own_page_bytes(instance, survey) if wanted.pages == NATIVE else POOL_PAGE_BYTES


def _own_page_bytes(instance: InstanceRecord, survey: Survey) -> int:
    """The size that PostgreSQL asks for by itself. What is set stays; old versions have no setting."""
    set_bytes = postgresql_bytes(instance.settings.get("huge_page_size", "0"), KIB)
    major = (instance.version or "").partition(".")[0]
    has_setting = not major.isdigit() or int(major) >= native.HUGE_PAGE_SIZE[0]
    default_bytes = survey.host.huge_page_default_bytes or POOL_PAGE_BYTES
    return set_bytes or (POOL_PAGE_BYTES if has_setting else default_bytes)


def _is_done(instance: InstanceRecord, planned: InstancePlan) -> bool:
    """Whether it is in huge pages already, and not merely without anything worth a change."""
    return "already" in (planned.outlook.done or "")


def _require_supported(instance: InstanceRecord) -> None:
    """Conflict, with what to set there, for a server that something else manages."""
    for pid, __ in evidence.postmasters():
        if pid in instance.pids:
            seen = evidence.of_process(pid)
            manager = choose.require_supported(instance.name, seen)
            if manager is PATRONI:
                _refuse_patroni(instance.name, PATRONI.recognise(seen) or "")


def _refuse_patroni(name: str, reason: str) -> None:
    """Its members are restarted in an order of their own, over several hosts."""
    raise Conflict(
        f"{name} is managed by Patroni ({reason}), so nothing was changed; move its members with the playbook"
        " dbmem.mshare.postgresql, which restarts them in turn, or name other servers in"
        " mshare_remedy_instances"
    )


def _cluster(instance: InstanceRecord) -> Cluster:
    _require_supported(instance)
    return clusters.at(instance.data_directory or "").managed()


def _spec(
    remedy: str, instance: InstanceRecord, planned: InstancePlan, spec: RemedySpec, entry: Entry | None
) -> ClusterSpec | None:
    """What a server is to be started with for a remedy; Conflict where that is not open to it."""
    rows = {row.id: row for row in planned.rows}
    if remedy == COLLAPSE and rows[_ROWS[COLLAPSE]].usable:
        return None
    # A segment that does not lie right is placed at the next start, and collapsed then.
    row = rows[_ROWS[THP if remedy == COLLAPSE else remedy]]
    # PostgreSQL's own huge pages have the size that it is set to, or that it has by default.
    usable = row.usable or (remedy == NATIVE and rows[_LARGER_PAGES].usable)
    # What an earlier run did is undone by the same step, so that it does not stand in the way.
    if not usable and entry is None:
        reasons = "; ".join(row.reasons) or "the plan does not say why"
        raise Conflict(
            f"remedy {remedy} is not open to {instance.name}, so nothing was changed: {reasons}; see `mshare"
            " plan` for what is, or use remedy auto"
        )
    pages = THP if remedy == COLLAPSE else remedy
    return ClusterSpec(pages, library=spec.library, prefault=False if remedy == COLLAPSE else None)


def _spec_of(entry: Entry, spec: RemedySpec) -> ClusterSpec | None:
    if entry.pages is None:
        return None
    return ClusterSpec(entry.pages, library=spec.library, prefault=entry.prefault)


def counted(survey: Survey, choices: tuple[Choice, ...]) -> tuple[str, ...]:
    """The instances whose needs make up the pool: those that get it, and those that take from it anyway."""
    pooled = {choice.instance for choice in choices if choice.page_bytes == POOL_PAGE_BYTES}
    return tuple(sorted({*pooled, *_takers(survey, {choice.instance for choice in choices})}))


def _takers(survey: Survey, chosen: set[str]) -> Iterator[str]:
    for instance in survey.instances:
        requested = (instance.huge_pages_requested or "").lower()
        if instance.name in chosen or requested not in TAKES_HUGE_PAGES.get(instance.kind, ()):
            continue
        if instance.kind == "postgresql" and _own_page_bytes(instance, survey) != POOL_PAGE_BYTES:
            continue
        yield instance.name
