# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: one row per remedy for each instance, and what to make of them.

Only segments are remedied. What an instance's processes pay for their programs, the remainder, is in
every figure and stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal

from .. import record
from ..errors import InvalidRequest
from ..kernel import abi
from ..labels import Kind, weakest
from ..pagetable import BASE_PAGE_BYTES, Layout
from ..units import MIB, counted, format_size, round_up
from . import outlook
from .commands import command
from .facts import Facts, Host, Instance
from .outlook import Outlook
from .paste import Paste, in_the_pool, paste, raise_first
from .remedies import (
    MOST_OF_MEMORY,
    NOTHING,
    REMEDIES,
    Case,
    Cost,
    Remedy,
    cost,
    refusals,
    setting_words,
)

SCHEMA_VERSION = 2
_MOST_OF_IT = 0.9
_OF_THE_POOL = ("hugetlb_2m", "preload_hugetlb", "hugetlb_1g")
_POOL_SHARE = 10
"""The default assumes a pool of a tenth of the clients."""


@dataclass(frozen=True)
class SegmentInputs:
    """What is known of a segment, and how many processes would map it."""

    name: str
    size_bytes: int
    page_bytes: int
    page_tables_today_bytes: int | None
    processes_today: int | None
    clients: int


@dataclass(frozen=True)
class Inputs:
    """The numbers that a row's formula is made of."""

    processes_today: int | None
    clients_maximum: int
    pool_to: int | None
    remainder_today_bytes: int
    segments: tuple[SegmentInputs, ...]


@dataclass(frozen=True)
class Row:
    """One remedy for one instance. Bytes of page tables are of all its processes together."""

    id: str
    remedy: str
    usable: bool
    reasons: tuple[str, ...]
    """Why it is not usable, or not for every segment."""
    today_bytes: int | None
    at_maximum_bytes: int
    after_bytes: int
    """At the maximum of clients, with the remedy."""
    saving_bytes: int
    saving_percent_of_memory: float | None
    window_bytes: int
    """Address space in each process: it costs nothing."""
    memory_bytes: int
    """RAM, when all of the segments is touched."""
    waste_bytes: int
    faults_per_client: int
    faults_once: int
    restart: str
    reboot: str
    reversible: str
    takes: str
    command: str | None
    """The one command that applies it to this instance, where there is one."""
    confidence: Literal["measured", "modelled", "projected"]
    formula: str
    inputs: Inputs


@dataclass(frozen=True)
class InstancePlan:
    """The rows of one instance."""

    name: str
    kind: str
    size_bytes: int
    processes: int | None
    clients_maximum: int
    maximum_source: str
    today_bytes: int | None
    today_kind: Literal["measured", "modelled", "projected"]
    at_maximum_bytes: int
    at_maximum_kind: Literal["measured", "modelled", "projected"]
    full_touch_leaf_bytes: int
    full_touch_bytes: int
    """What the maximum of clients pays if each touches all of the segments in pages as they are."""
    rows: tuple[Row, ...]
    verdict: tuple[str, ...]
    outlook: Outlook

    def row(self, identifier: str) -> Row:
        return next(row for row in self.rows if row.id == identifier)

    def usable(self, identifier: str) -> bool:
        """Whether a remedy is open; mshare, whatever the generation."""
        rows = (row for row in self.rows if row.id == identifier or row.id.startswith(f"{identifier}_2"))
        return any(row.usable for row in rows)


@dataclass(frozen=True)
class PlanHost:
    """The host that was surveyed; None for what is not known."""

    name: str | None
    kernel: str | None
    memory_total_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """Everything that `mshare plan` answers; docs/reference/plan.schema.json is its JSON."""

    schema_version: int
    created_at: str
    """UTC, ISO 8601."""
    surveyed_at: str | None
    source: Literal["survey", "wishes"]
    complete: bool
    host: PlanHost
    notes: tuple[str, ...]
    outlook: Outlook
    """Of the host, with every instance at its maximum."""
    instances: tuple[InstancePlan, ...]
    paste: Paste

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return record.to_fields(self)


def plan(facts: Facts, pool_to: int | None = None, generations: bool = False) -> Plan:
    """Plan for every instance; `pool_to` is how many connections a pooler would keep.

    mshare is one row, of the generation that the host has or of the newest; `generations` lists each.

    Raises InvalidRequest for a pool of less than 1.
    """
    if pool_to is not None and pool_to < 1:
        raise InvalidRequest(
            f"a pool of {counted(pool_to, 'connection')} cannot serve anybody; use 1 or more"
        )
    pools = [pool_to or -(-instance.clients_maximum // _POOL_SHARE) for instance in facts.instances]
    planned, outlooks = [], []
    for instance, pool in zip(facts.instances, pools):
        if instance.segments or instance.region:
            planned.append(_instance(facts, instance, pool, generations))
            outlooks.append(planned[-1].outlook)
        else:
            # No remedy, but it takes memory with each process that comes.
            at_bytes = instance.remainder_at(instance.clients_maximum)
            outlooks.append(outlook.of_instance(facts, instance, at_bytes, _kinds(instance)[1], ()))
    for number, is_needed in enumerate(outlook.needed(facts, outlooks)):
        if is_needed:
            optional = next(each for each in planned if each.outlook is outlooks[number])
            outlooks[number] = _needed(facts, facts.instances[number], optional)
            planned[planned.index(optional)] = replace(optional, outlook=outlooks[number])
    return Plan(
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        surveyed_at=facts.surveyed_at,
        source=facts.source,
        complete=facts.complete,
        host=PlanHost(facts.host.name, facts.host.kernel, facts.host.memory_total_bytes),
        notes=tuple(_notes(facts, planned)),
        outlook=outlook.of_host(facts, outlooks),
        instances=tuple(planned),
        paste=paste(facts, planned, pools),
    )


def _needed(facts: Facts, instance: Instance, planned: InstancePlan) -> Outlook:
    """The outlook of an instance whose remedy the host needs, though its own memory suffices."""
    at_bytes, kind = planned.at_maximum_bytes, planned.at_maximum_kind
    return outlook.of_instance(facts, instance, at_bytes, kind, planned.rows, needed=True)


def _notes(facts: Facts, planned: Sequence[InstancePlan]) -> list[str]:
    notes = list(_too_much_together(facts, planned))
    if facts.source == "wishes":
        notes.append(
            "Nothing was measured: every client is taken to touch all of the segment. What a process pays"
            " for its own program comes on top and stays."
        )
    if facts.host.memory_total_bytes is None:
        notes.append("The host's RAM is not known, so there are no percentages; give memory (--memory).")
    if not facts.complete:
        notes.append(
            "The survey is partial: it could not read every process, so more may be paid than it says."
        )
    notes += filter(None, (instance.repeated for instance in facts.instances))
    without = [instance.name for instance in facts.instances if not instance.segments and not instance.region]
    if without:
        notes.append(
            f"No shared memory of 2 MiB or more, so nothing to plan: {', '.join(without)}. A file that"
            " several programs map does not count."
        )
    if not facts.instances:
        notes.append(
            "Nothing to plan: no program here has shared memory and page tables above the survey's threshold."
        )
    return notes


def _too_much_together(facts: Facts, planned: Sequence[InstancePlan]) -> Iterator[str]:
    """Remedies of which each fits the RAM, and all at once do not."""
    names = {plan.name for plan in planned if plan.outlook.remedy_id in _OF_THE_POOL}
    taking = [instance for instance in facts.instances if instance.name in names]
    memory_bytes = facts.host.memory_total_bytes
    if memory_bytes is None or len(taking) < 2:
        return
    used_bytes = facts.host.taken_bytes(2 * MIB)
    needed_bytes = sum(round_up(segment.size_bytes, 2 * MIB) for __, segment in in_the_pool(taking))
    if needed_bytes + used_bytes > MOST_OF_MEMORY * memory_bytes:
        beside = f" beside the {format_size(used_bytes)} that other huge pages have" if used_bytes else ""
        yield (
            f"Huge pages for {', '.join(instance.name for instance in taking)} at once do not fit: they need"
            f" {format_size(needed_bytes)}{beside} of {format_size(memory_bytes)} of RAM. Take them for some,"
            " and plan again."
        )


def _instance(facts: Facts, instance: Instance, pool_to: int, generations: bool) -> InstancePlan:
    nothing = _total(NOTHING, instance, facts.host, pool_to)
    today_kind, at_kind = _kinds(instance)
    rows = tuple(
        _row(remedy, facts, instance, pool_to, nothing, at_kind)
        for remedy in REMEDIES
        if not remedy.generation or generations
    )
    if not generations:
        rows = (*rows, _folded(facts, instance, pool_to, nothing, at_kind))
    layout = Layout()
    full = [
        layout.add(part.start, part.size_bytes, segment.page_bytes)
        for segment in instance.segments
        for part in segment.places
    ]
    clients = instance.clients_maximum
    leaf_bytes, every_bytes = (
        sum(segment.leaf_bytes for segment in full),
        sum(segment.total_bytes for segment in full),
    )
    return InstancePlan(
        name=instance.name,
        kind=instance.kind,
        size_bytes=instance.size_bytes,
        processes=instance.processes,
        clients_maximum=clients,
        maximum_source=instance.maximum_source,
        today_bytes=instance.tables_bytes,
        today_kind=today_kind,
        at_maximum_bytes=nothing.tables_bytes,
        at_maximum_kind=at_kind,
        full_touch_leaf_bytes=clients * leaf_bytes,
        full_touch_bytes=clients * every_bytes,
        rows=rows,
        verdict=tuple(_verdict(rows, instance)),
        outlook=outlook.of_instance(facts, instance, nothing.tables_bytes, at_kind, rows),
    )


def _kinds(instance: Instance) -> tuple[Kind, Kind]:
    """What figures of today are, and of the maximum."""
    if instance.processes is None:
        return "modelled", "modelled"
    today = instance.tables_kind
    grown = instance.clients_maximum != instance.processes - instance.helpers
    return today, weakest(today, "projected") if grown else today


def _folded(facts: Facts, instance: Instance, pool_to: int, nothing: _Total, at_kind: Kind) -> Row:
    """All generations of mshare as one row: the one that is open, else the newest."""
    rows = [
        _row(remedy, facts, instance, pool_to, nothing, at_kind) for remedy in REMEDIES if remedy.generation
    ]
    chosen = next((row for row in rows if row.usable), rows[-1])
    usable = chosen.usable
    return replace(
        chosen,
        id="mshare",
        remedy=chosen.remedy if usable else "mshare",
        command=command("mshare", instance),
    )


@dataclass(frozen=True)
class _Total:
    """A remedy over all segments of an instance."""

    tables_bytes: int
    costs: tuple[Cost, ...]
    formula: str
    reasons: tuple[str, ...]
    remedied: int
    """How many segments it is open to."""


def _total(remedy: Remedy, instance: Instance, host: Host, pool_to: int) -> _Total:
    """Segments to which it is not open stay as they are; if it is open to none, what it would do to all."""
    clients = instance.clients_maximum
    cases = [
        Case(segment, instance, host, instance.attached(segment, clients), pool_to)
        for segment in instance.segments
    ]
    refused = [refusals(remedy, case) for case in cases]
    remedied = sum(not reasons for reasons in refused)
    # Neighbours share tables: a shared table is charged to the segment that most processes have.
    layout, cost_of = Layout(), {}
    for case, reasons in sorted(zip(cases, refused), key=lambda pair: _first(pair[0])):
        cost_of[case.segment] = cost(NOTHING if reasons and remedied else remedy, case, layout)
    costs = tuple(cost_of[case.segment] for case in cases)
    processes = min(clients, pool_to) if remedy.pooled else clients
    remainder_bytes = instance.remainder_at(processes)
    formula = " + ".join(
        formula if count == 1 else f"{count:,} x ({formula})"
        for formula, count in Counter(cost.formula for cost in costs).items()
    )
    if remainder_bytes:
        formula += f" + {format_size(remainder_bytes)} remainder"
    return _Total(
        sum(cost.tables_bytes for cost in costs) + remainder_bytes,
        costs,
        formula,
        tuple(_refusals(cases, refused)),
        remedied,
    )


def _first(case: Case) -> tuple[int, int]:
    return -case.clients, case.segment.address or 0


def _refusals(cases: Sequence[Case], refused: Sequence[list[str]]) -> list[str]:
    """The reasons, each once; with the segment's name where there are several."""
    if len(cases) == 1:
        return refused[0]
    names_of: dict[str, list[str]] = {}
    for case, reasons in zip(cases, refused):
        for reason in reasons:
            names_of.setdefault(reason, []).append(case.segment.name)
    return [
        reason if len(names) == len(cases) else f"{', '.join(names)}: {reason}"
        for reason, names in names_of.items()
    ]


def _row(
    remedy: Remedy, facts: Facts, instance: Instance, pool_to: int, nothing: _Total, at_kind: Kind
) -> Row:
    total = _total(remedy, instance, facts.host, pool_to)
    memory_bytes = sum(cost.memory_bytes for cost in total.costs)
    saving_bytes = nothing.tables_bytes - total.tables_bytes
    memory_total = facts.host.memory_total_bytes
    return Row(
        id=remedy.id,
        remedy=remedy.name.format(pool_to=f"{pool_to:,}"),
        usable=total.remedied > 0,
        reasons=total.reasons,
        today_bytes=instance.tables_bytes,
        at_maximum_bytes=nothing.tables_bytes,
        after_bytes=total.tables_bytes,
        saving_bytes=saving_bytes,
        saving_percent_of_memory=100 * saving_bytes / memory_total if memory_total else None,
        # A region's window is a multiple of the alignment, whatever is mapped in it.
        window_bytes=round_up(memory_bytes, abi.X86_64_ALIGNMENT_BYTES)
        if remedy.generation
        else memory_bytes,
        memory_bytes=memory_bytes,
        waste_bytes=sum(cost.waste_bytes for cost in total.costs),
        faults_per_client=sum(cost.faults_per_client for cost in total.costs),
        faults_once=sum(cost.faults_once for cost in total.costs),
        restart=remedy.restart,
        reboot="no" if remedy.generation and facts.host.kernel_has_mshare else remedy.reboot,
        reversible=remedy.reversible,
        takes=_takes(remedy, instance),
        command=command("mshare" if remedy.generation else remedy.id, instance),
        confidence=at_kind if remedy is NOTHING else weakest(at_kind, remedy.confidence),
        formula=f"{total.formula} = {format_size(total.tables_bytes)}",
        inputs=_inputs(instance, total, pool_to if remedy.pooled else None),
    )


def _takes(remedy: Remedy, instance: Instance) -> str:
    """What has to be there for a remedy; the limits that would have the program killed come last."""
    takes = remedy.takes.format(setting=setting_words(instance))
    if remedy.page_bytes is None or remedy.transparent:
        return takes
    limits = raise_first(instance, remedy.page_bytes)
    way = "a limit hugepages-2Mi of the pod" if instance.manager == "kubernetes" else "a higher limit"
    return "; ".join([takes, *(f"{way}, for {sentence}" for sentence in limits)])


def _inputs(instance: Instance, total: _Total, pool_to: int | None) -> Inputs:
    return Inputs(
        processes_today=instance.processes,
        clients_maximum=instance.clients_maximum,
        pool_to=pool_to,
        remainder_today_bytes=instance.remainder_bytes,
        segments=tuple(
            SegmentInputs(
                name=segment.name,
                size_bytes=segment.size_bytes,
                page_bytes=segment.page_bytes,
                page_tables_today_bytes=segment.page_tables_bytes,
                processes_today=segment.processes if instance.processes is not None else None,
                clients=cost_of_segment.clients,
            )
            for segment, cost_of_segment in zip(instance.segments, total.costs)
        ),
    )


def _verdict(rows: Sequence[Row], instance: Instance) -> list[str]:
    """Conclusions from the rows: the best open remedy, and how static huge pages compare with mshare."""
    row_of = {row.id: row for row in rows}
    huge, newest = row_of["hugetlb_2m"], rows[-1]
    if instance.done:
        return [f"Nothing to do: {instance.done}."]
    usable = [row for row in rows if row.usable and row.saving_bytes > 0]
    sentences = []
    if usable:
        best = max(usable, key=lambda row: row.saving_bytes)
        sentences.append(f"Open remedy that saves most: {best.remedy}, {_saving(best)}.")
    else:
        sentences.append("None of the open remedies saves anything.")
    if all(segment.page_bytes > BASE_PAGE_BYTES for segment in instance.segments):
        sentences.append(
            "Its memory is in static huge pages already, which save most of it: at max clients page tables"
            f" are {format_size(huge.at_maximum_bytes)}, and mshare would save"
            f" {format_size(newest.saving_bytes)}."
        )
    elif newest.saving_bytes > 0:
        sentences.append(_about_huge_pages(huge, newest, huge.saving_bytes / newest.saving_bytes))
    return sentences


def _about_huge_pages(huge: Row, newest: Row, share: float) -> str:
    # A region's tables are there for all of it, even where clients touched little.
    part = f"{100 * share:.1f} % of" if share <= 1 else "more than"
    compared = (
        f"Static huge pages of 2 MiB save {format_size(huge.saving_bytes)}, {part} the"
        f" {format_size(newest.saving_bytes)} that mshare would"
    )
    if not huge.usable:
        return f"{compared}, but are not open here: {huge.reasons[0]}."
    if share < _MOST_OF_IT:
        return f"{compared}."
    return (
        f"{compared}, on any kernel: they save most of it already, so start there. mshare adds that pages"
        f" stay"
        " small and need no pool, and that first-touch faults are taken once for all clients."
    )


def _saving(row: Row) -> str:
    share = 100 * row.saving_bytes / row.at_maximum_bytes
    saving, before = format_size(row.saving_bytes), format_size(row.at_maximum_bytes)
    return f"{saving} of {before} ({share:.1f} %, {row.confidence})"
