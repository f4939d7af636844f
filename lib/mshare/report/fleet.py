# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The surveys of many hosts as one: totals, hosts by their share of RAM, who is missing.

Pure: decoded surveys in, dataclasses out. What hosts answer is text of strangers here; nothing of it is
trusted to be well-formed, and a survey that cannot be read makes its host missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .. import __version__, record, texttable
from ..errors import InvalidRequest
from ..host.huge_pages import Pool
from ..labels import Kind, weakest
from ..plan import outlook
from ..plan.facts import Instance as KnownInstance
from ..plan.facts import from_survey as facts_of
from ..plan.outlook import Outlook
from ..survey.record import InstanceRecord, Survey, from_fields
from ..units import counted, format_size
from .remedies import HUGE, MSHARE, REMEDIES, Saving, add, savings_of

if TYPE_CHECKING:
    from .changes import Comparison

SCHEMA_VERSION = 2
State = Literal["fine", "at risk", "out of memory"]
STATES: tuple[State, ...] = ("fine", "at risk", "out of memory")
"""From the best to the worst; the last would run out of memory with as many processes as it allows."""
_MOST_NAMED = 10
_STATE_OF: dict[outlook.Verdict, State] = dict(zip(("fine", "at_risk", "will_run_out"), STATES))


@dataclass(frozen=True)
class Missing:
    """A host of which nothing is known, and why."""

    host: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether the hosts survive their own maxima of processes."""

    state: State
    sentence: str


@dataclass(frozen=True)
class Figure:
    """A number of bytes."""

    value: int
    kind: Kind
    unit: Literal["bytes"] = "bytes"


@dataclass(frozen=True)
class Totals:
    """The figures of all hosts together."""

    hosts: int
    hosts_missing: int
    hosts_partial: int
    kernels: int
    instances: int
    memory: Figure
    page_tables: Figure
    page_tables_of_instances: Figure
    page_tables_of_instances_at_maximum: Figure


@dataclass(frozen=True)
class Instance:
    """A database, or another group of processes that share memory, on one host."""

    host: str
    name: str
    kind: str
    segment: str
    """The largest segment's kind."""
    segments_bytes: int
    processes: int
    processes_maximum: int | None
    page_tables_bytes: int
    """The sum of VmPTE, where tables that several processes share count once."""
    page_tables_kind: Kind
    """ "measured", or "modelled" where there are such tables."""
    page_tables_average_bytes: int
    page_tables_segments_bytes: int | None
    """None where what the processes map could not be read."""
    share_of_host_percent: float
    """Of the host's page tables."""
    percent_of_memory: float
    """Its page tables, of the host's RAM."""
    figure_kind: str
    """ "measured" or "modelled": what the part of the segments is."""
    savings: tuple[Saving, ...]
    """In the order of REMEDIES."""

    @property
    def at_maximum_bytes(self) -> int:
        return self.savings[0].maximum.before_bytes

    @property
    def at_maximum_kind(self) -> Kind:
        return "projected" if (self.processes_maximum or 0) > self.processes else self.page_tables_kind

    @property
    def usable(self) -> bool:
        """Whether a remedy is open to it today."""
        return any(saving.usable for saving in self.savings)

    def saving(self, remedy: str) -> Saving:
        return next(saving for saving in self.savings if saving.remedy == remedy)

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        fields = {name: record.plain(value) for name, value in vars(self).items()}
        return {**fields, "at_maximum_bytes": self.at_maximum_bytes}


@dataclass(frozen=True)
class Host:
    """One host that was surveyed."""

    name: str
    surveyed_at: str
    """UTC, ISO 8601."""
    kernel: str
    boot_id: str | None
    """The same on hosts that are containers of one machine: its memory and page tables are all of theirs."""
    memory_bytes: int
    available_bytes: int
    page_tables_bytes: int
    processes: int
    thp: str
    huge_pages_bytes: int
    mshare: bool
    instances: tuple[Instance, ...]
    remarks: tuple[str, ...]
    """What is not complete about it, one phrase each."""
    outlook: Outlook
    """The verdict that the plan gives on it."""

    @property
    def percent_of_memory(self) -> float:
        return _percent(self.page_tables_bytes, self.memory_bytes)

    @property
    def outside_bytes(self) -> int:
        """Page tables of the host that are in none of its instances."""
        return max(0, self.page_tables_bytes - sum(instance.page_tables_bytes for instance in self.instances))

    @property
    def growth_bytes(self) -> int:
        """Page tables that come on top when every instance has as many processes as it allows."""
        return self.outlook.at_maximum_bytes - (self.outlook.today_bytes or 0)

    @property
    def at_maximum_bytes(self) -> int:
        return self.page_tables_bytes + self.growth_bytes

    @property
    def kind(self) -> Kind:
        """Of its figures at the maximum."""
        return weakest("measured", *(instance.at_maximum_kind for instance in self.instances))

    @property
    def state(self) -> State:
        """Whether its memory, and that of its cgroups, suffices for the page tables of its own maxima."""
        return _STATE_OF[self.outlook.verdict]

    @property
    def sentence(self) -> str:
        """The state in words and figures."""
        grown = f"page tables would grow by {format_size(self.growth_bytes)}"
        left_bytes = format_size(self.outlook.available_bytes or 0)
        left = f"{left_bytes} of memory are available"
        if self.outlook.limit:
            left = f"{left_bytes} left by {self.outlook.limit}"
        return {
            "fine": f"{grown} at the maximum of processes; {left}",
            "at risk": f"{grown} at the maximum of processes, and only {left}",
            "out of memory": f"runs out of memory before its maximum of processes: {grown}, and only {left}",
        }[self.state]

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            **{name: record.plain(value) for name, value in vars(self).items()},
            "percent_of_memory": self.percent_of_memory,
            "at_maximum_bytes": self.at_maximum_bytes,
            "state": self.state,
        }


@dataclass(frozen=True)
class Fleet:
    """The figures of all hosts."""

    hosts: tuple[Host, ...]
    """The host whose page tables take most of its RAM first."""
    missing: tuple[Missing, ...]
    compared: Comparison | None = None
    """With an earlier report, where that was asked for."""

    @property
    def instances(self) -> list[Instance]:
        """Of all hosts: those with a usable remedy first, and among them by their share of RAM."""
        all_instances = (instance for host in self.hosts for instance in host.instances)
        return sorted(
            all_instances,
            key=lambda instance: (
                not instance.usable,
                -instance.percent_of_memory,
                instance.host,
                instance.name,
            ),
        )

    def in_state(self, state: State) -> list[Host]:
        return [host for host in self.hosts if host.state == state]

    @property
    def state(self) -> State:
        """The worst of its hosts."""
        return max((host.state for host in self.hosts), key=STATES.index, default="fine")

    @property
    def verdict(self) -> str:
        """One sentence: which hosts do not survive their own maxima."""
        if not self.hosts:
            return "No host was surveyed."
        lost, risky = self.in_state("out of memory"), self.in_state("at risk")
        if lost:
            verb = "does not survive its own maximum" if len(lost) == 1 else "do not survive their own maxima"
            return f"{counted(len(lost), 'host')} of {len(self.hosts):,} {verb}: {_names(lost)}."
        if risky:
            verb = "is at risk at its own maximum" if len(risky) == 1 else "are at risk at their own maxima"
            return f"{counted(len(risky), 'host')} of {len(self.hosts):,} {verb}: {_names(risky)}."
        if len(self.hosts) == 1:
            return "The host survives its own maximum."
        all_hosts = "Both hosts" if len(self.hosts) == 2 else f"All {counted(len(self.hosts), 'host')}"
        return f"{all_hosts} survive their own maxima."

    @property
    def surveyed(self) -> tuple[str, str] | None:
        """When the first and the last survey were made."""
        times = [host.surveyed_at for host in self.hosts]
        return (min(times), max(times)) if times else None

    @property
    def partial(self) -> list[Host]:
        return [host for host in self.hosts if host.remarks]

    @property
    def kernels(self) -> list[list[Host]]:
        """The hosts by the kernel they run on; a host without that information counts as its own kernel."""
        by_kernel: dict[str, list[Host]] = {}
        for host in self.hosts:
            by_kernel.setdefault(host.boot_id or f"of {host.name}", []).append(host)
        return list(by_kernel.values())

    @property
    def shared_kernels(self) -> list[str]:
        """Which hosts share a kernel, a phrase for each."""
        return [
            f"{', '.join(sorted(host.name for host in hosts))} run on one kernel: counted once in the totals"
            for hosts in self.kernels
            if len(hosts) > 1
        ]

    @property
    def page_tables_bytes(self) -> int:
        # Read at different moments: the largest.
        return sum(max(host.page_tables_bytes for host in hosts) for hosts in self.kernels)

    @property
    def memory_bytes(self) -> int:
        return sum(max(host.memory_bytes for host in hosts) for hosts in self.kernels)

    @property
    def percent_of_memory(self) -> float:
        return _percent(self.page_tables_bytes, self.memory_bytes)

    @property
    def in_instances_bytes(self) -> int:
        return sum(instance.page_tables_bytes for instance in self.instances)

    @property
    def in_instances_kind(self) -> Kind:
        return weakest("measured", *(instance.page_tables_kind for instance in self.instances))

    @property
    def at_maximum_bytes(self) -> int:
        return sum(instance.at_maximum_bytes for instance in self.instances)

    @property
    def at_maximum_kind(self) -> Kind:
        return weakest("measured", *(host.kind for host in self.hosts))

    @property
    def savings(self) -> list[Saving]:
        """What each remedy would save in all instances together; those that can be used today first."""
        totals = [
            add(remedy, [instance.saving(remedy) for instance in self.instances]) for remedy in REMEDIES
        ]
        return sorted(totals, key=lambda saving: (not saving.usable, -saving.maximum.saved_bytes))

    def saving(self, remedy: str) -> Saving:
        return next(saving for saving in self.savings if saving.remedy == remedy)

    @property
    def huge(self) -> Saving:
        return self.saving(HUGE)

    @property
    def mshare(self) -> Saving:
        return self.saving(MSHARE)

    def summary_lines(self) -> list[str]:
        """The totals as plain text."""
        partial = f", {len(self.partial):,} of them in part" if self.partial else ""
        paragraphs = [
            self.verdict,
            *(f"  {host.name} {host.sentence} ({host.kind})" for host in self.in_danger[:_MOST_NAMED]),
            f"{counted(len(self.hosts), 'host')} surveyed{partial}, {len(self.missing):,} missing",
            *(f"  missing: {entry.host}: {entry.reason}" for entry in self.missing),
            *(f"  {sentence}" for sentence in self.shared_kernels),
            f"Page tables now: {format_size(self.page_tables_bytes)} (measured),"
            f" {self.percent_of_memory:.1f} % of {format_size(self.memory_bytes)} of RAM",
            *(
                f"  {saving.name} would save {format_size(saving.now.saved_bytes)} now ({saving.now.kind}),"
                f" {format_size(saving.maximum.saved_bytes)} at the maximum ({saving.maximum.kind})"
                + self._open_part(saving)
                for saving in (self.huge, self.mshare)
            ),
            *self._compared_lines(),
        ]
        return [line for text in paragraphs for line in texttable.wrapped(text, texttable.WIDTH, "    ")]

    def _open_part(self, saving: Saving) -> str:
        """How much of a saving is in the instances that the remedy is open to, where it is not to all."""
        if saving.usable == saving.instances:
            return ""
        if not saving.usable:
            return f", and is open to none of {counted(saving.instances, 'instance')}"
        each = (instance.saving(saving.remedy) for instance in self.instances)
        open_bytes = sum(one.maximum.saved_bytes for one in each if one.usable)
        return (
            f", {format_size(open_bytes)} of that where it is open, in {saving.usable:,} of"
            f" {counted(saving.instances, 'instance')}"
        )

    @property
    def in_danger(self) -> list[Host]:
        """Hosts that are not fine, the worst first."""
        return [host for state in reversed(STATES[1:]) for host in self.in_state(state)]

    def _compared_lines(self) -> Iterator[str]:
        if self.compared is None:
            return
        if self.compared.since is None:
            yield f"No host of this report is in {self.compared.earlier}, so nothing is compared"
            return
        yield (
            f"Since {self.compared.since} page tables {grown(self.compared.grown_bytes)} (measured), on"
            f" {counted(len(self.compared.hosts), 'host')} of both reports"
        )
        for change in self.compared.hosts[:_MOST_NAMED]:
            if change.grown_bytes > 0:
                yield f"  {change.host} {grown(change.grown_bytes)} to {format_size(change.now_bytes or 0)}"
        if self.compared.gone:
            yield f"  In {self.compared.earlier} only: {_listed(self.compared.gone)}"

    @property
    def judged(self) -> Verdict:
        return Verdict(self.state, self.verdict)

    @property
    def totals(self) -> Totals:
        return Totals(
            hosts=len(self.hosts),
            hosts_missing=len(self.missing),
            hosts_partial=len(self.partial),
            kernels=len(self.kernels),
            instances=len(self.instances),
            memory=Figure(self.memory_bytes, "measured"),
            page_tables=Figure(self.page_tables_bytes, "measured"),
            page_tables_of_instances=Figure(self.in_instances_bytes, self.in_instances_kind),
            page_tables_of_instances_at_maximum=Figure(self.at_maximum_bytes, self.at_maximum_kind),
        )

    def to_fields(self) -> dict[str, object]:
        """As report.json has it, but for the surveys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "version": __version__,
            "surveyed": None if self.surveyed is None else dict(zip(("first", "last"), self.surveyed)),
            "verdict": record.plain(self.judged),
            "compared": record.plain(self.compared),
            "totals": record.plain(self.totals),
            "savings": record.plain(self.savings),
            "hosts": record.plain(self.hosts),
            "missing": record.plain(self.missing),
        }


def fleet(surveys: Mapping[str, object], missing: Iterable[Missing] = ()) -> Fleet:
    """Surveys by host name, and who is known to be missing already."""
    hosts, lost = [], list(missing)
    for name, survey in surveys.items():
        try:
            hosts.append(_host(name, from_fields(survey, f"the survey of {name}")))
        except InvalidRequest as error:
            lost.append(Missing(name, str(error)))
    hosts.sort(key=lambda host: (-host.percent_of_memory, -host.page_tables_bytes, host.name))
    return Fleet(tuple(hosts), tuple(sorted(lost, key=lambda host: host.host)))


def _host(name: str, survey: Survey) -> Host:
    facts = survey.host
    memory_bytes = facts.memory_total_bytes
    known = facts_of(survey)
    verdict, savings = savings_of(known)
    instances = [
        _instance(name, memory_bytes, *each) for each in zip(survey.instances, known.instances, savings)
    ]
    return Host(
        name=name,
        surveyed_at=survey.created_at,
        kernel=facts.kernel,
        boot_id=facts.boot_id,
        memory_bytes=facts.memory_total_bytes,
        available_bytes=facts.memory_available_bytes,
        page_tables_bytes=facts.page_tables_bytes,
        processes=sum(instance.processes for instance in instances) + survey.others.processes,
        thp=" / ".join(word or "unknown" for word in (facts.thp.anonymous, facts.thp.shmem)),
        huge_pages_bytes=sum(map(_pool_bytes, facts.huge_page_pools)),
        mshare=facts.mshare.kernel_supported,
        instances=tuple(sorted(instances, key=lambda instance: (-instance.page_tables_bytes, instance.name))),
        remarks=tuple(_remarks(survey)),
        outlook=verdict,
    )


def _pool_bytes(pool: Pool) -> int:
    # Where a kernel tells per node, the pool of the whole host is listed as well.
    return pool.page_bytes * (pool.total or 0) if pool.node is None else 0


def _remarks(survey: Survey) -> Iterable[str]:
    unread = len(survey.missing)
    if unread:
        reasons = sorted({entry.reason for entry in survey.missing})
        yield f"{unread:,} not read ({'; '.join(reasons[:3])})"
    elif not survey.complete:
        yield "partial"
    if survey.vanished:
        yield f"{survey.vanished:,} ended meanwhile"


def _instance(
    host: str, memory_bytes: int, surveyed: InstanceRecord, known: KnownInstance, savings: list[Saving]
) -> Instance:
    tables = surveyed.page_tables
    # What processes share counts once, as in the plan.
    tables_bytes, segments_bytes = known.tables_bytes or 0, tables.segments_bytes
    if segments_bytes is not None:
        segments_bytes = max(0, segments_bytes - known.repeated_bytes)
    largest = max(surveyed.segments, key=lambda segment: segment.size_bytes, default=None)
    return Instance(
        host=host,
        name=surveyed.name,
        kind=surveyed.kind,
        segment=largest.kind if largest else "none",
        segments_bytes=sum(segment.size_bytes for segment in surveyed.segments),
        processes=surveyed.processes,
        processes_maximum=surveyed.processes_maximum.value if surveyed.processes_maximum else None,
        page_tables_bytes=tables_bytes,
        page_tables_kind=known.tables_kind,
        page_tables_average_bytes=tables_bytes // max(1, surveyed.processes),
        page_tables_segments_bytes=segments_bytes,
        share_of_host_percent=surveyed.share_of_host_percent,
        percent_of_memory=_percent(tables_bytes, memory_bytes),
        figure_kind=weakest(tables.segments_kind, known.tables_kind),
        savings=tuple(savings),
    )


def grown(size_bytes: int) -> str:
    """How page tables changed: "grew by 3 GiB"."""
    if not size_bytes:
        return "did not change"
    return f"{'grew' if size_bytes > 0 else 'shrank'} by {format_size(abs(size_bytes))}"


def _names(hosts: Sequence[Host]) -> str:
    return _listed([host.name for host in hosts])


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(names[:_MOST_NAMED])
    return named if len(names) <= _MOST_NAMED else f"{named} and {len(names) - _MOST_NAMED:,} more"


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
