# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The surveys of many hosts as one: totals, hosts by their page tables, who is missing.

Pure: dicts of the survey's schema in, dataclasses out. What hosts say is text of strangers here; nothing of
it is trusted to be well-formed, and a survey that cannot be read makes its host missing, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidRequest
from ..host.huge_pages import Pool
from ..labels import Kind
from ..survey.record import InstanceRecord, Survey, from_fields
from ..units import counted, format_size
from .remedies import HUGE, MSHARE, REMEDIES, Saving, add, savings_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Missing:
    """A host of which nothing is known, and why."""

    host: str
    reason: str


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
    page_tables_average_bytes: int
    page_tables_segments_bytes: int | None
    """None where what the processes map could not be read."""
    share_of_host_percent: float
    figure_kind: str
    """ "measured" or "modelled": what the part of the segments is."""
    savings: tuple[Saving, ...]
    """In the order of REMEDIES."""

    @property
    def at_maximum_bytes(self) -> int:
        return self.savings[0].maximum.before_bytes

    def saving(self, remedy: str) -> Saving:
        return next(one for one in self.savings if one.remedy == remedy)

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "at_maximum_bytes": self.at_maximum_bytes,
            "savings": [one.to_dict() for one in self.savings],
        }


@dataclass(frozen=True)
class Host:
    """One host that was surveyed."""

    name: str
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

    @property
    def percent_of_memory(self) -> float:
        return _percent(self.page_tables_bytes, self.memory_bytes)

    @property
    def outside_bytes(self) -> int:
        """Page tables of the host that are in none of its instances."""
        return max(0, self.page_tables_bytes - sum(one.page_tables_bytes for one in self.instances))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "instances": [one.to_dict() for one in self.instances]}


@dataclass(frozen=True)
class Fleet:
    hosts: tuple[Host, ...]
    """The one with most page tables first."""
    missing: tuple[Missing, ...]

    @property
    def instances(self) -> list[Instance]:
        """Of all hosts, the one with most page tables first."""
        found = (instance for host in self.hosts for instance in host.instances)
        return sorted(found, key=lambda one: (-one.page_tables_bytes, one.host, one.name))

    @property
    def partial(self) -> list[Host]:
        return [host for host in self.hosts if host.remarks]

    @property
    def kernels(self) -> list[list[Host]]:
        """The hosts by the kernel they run on; one that does not say runs on its own."""
        found: dict[str, list[Host]] = {}
        for host in self.hosts:
            found.setdefault(host.boot_id or f"of {host.name}", []).append(host)
        return list(found.values())

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
        return sum(one.page_tables_bytes for one in self.instances)

    @property
    def at_maximum_bytes(self) -> int:
        return sum(one.at_maximum_bytes for one in self.instances)

    @property
    def at_maximum_kind(self) -> Kind:
        grown = any((one.processes_maximum or 0) > one.processes for one in self.instances)
        return "projected" if grown else "measured"

    @property
    def savings(self) -> list[Saving]:
        """What each remedy would save in all instances together, in the order of REMEDIES."""
        return [add(remedy, [one.saving(remedy) for one in self.instances]) for remedy in REMEDIES]

    def saving(self, remedy: str) -> Saving:
        return next(one for one in self.savings if one.remedy == remedy)

    @property
    def huge(self) -> Saving:
        return self.saving(HUGE)

    @property
    def mshare(self) -> Saving:
        return self.saving(MSHARE)

    def summary_lines(self) -> list[str]:
        """The totals as plain text."""
        return [
            f"{counted(len(self.hosts), 'host')} surveyed, {len(self.partial):,} of them in part,"
            f" {len(self.missing):,} missing",
            *(f"missing: {one.host}: {one.reason}" for one in self.missing),
            *self.shared_kernels,
            f"Page tables now: {format_size(self.page_tables_bytes)} (measured),"
            f" {self.percent_of_memory:.1f} % of {format_size(self.memory_bytes)} of memory",
            *(
                f"{one.name} would save {format_size(one.now.saved_bytes)} now ({one.now.kind}),"
                f" {format_size(one.maximum.saved_bytes)} at the maximum ({one.maximum.kind})"
                for one in (self.huge, self.mshare)
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "totals": {
                "hosts": len(self.hosts),
                "hosts_missing": len(self.missing),
                "hosts_partial": len(self.partial),
                "kernels": len(self.kernels),
                "instances": len(self.instances),
                "memory": _figure(self.memory_bytes, "measured"),
                "page_tables": _figure(self.page_tables_bytes, "measured"),
                "page_tables_of_instances": _figure(self.in_instances_bytes, "measured"),
                "page_tables_of_instances_at_maximum": _figure(self.at_maximum_bytes, self.at_maximum_kind),
            },
            "savings": [saving.to_dict() for saving in self.savings],
            "hosts": [host.to_dict() for host in self.hosts],
            "missing": [asdict(one) for one in self.missing],
        }


def fleet(surveys: Mapping[str, Any], missing: Iterable[Missing] = ()) -> Fleet:
    """Surveys by host name, and who is known to be missing already."""
    hosts, lost = [], list(missing)
    for name, survey in surveys.items():
        try:
            hosts.append(_host(name, from_fields(survey, f"the survey of {name}")))
        except InvalidRequest as error:
            lost.append(Missing(name, str(error)))
    hosts.sort(key=lambda host: (-host.page_tables_bytes, host.name))
    return Fleet(tuple(hosts), tuple(sorted(lost, key=lambda one: one.host)))


def _host(name: str, survey: Survey) -> Host:
    facts = survey.host
    instances = [_instance(name, *each) for each in zip(survey.instances, savings_of(survey))]
    return Host(
        name=name,
        kernel=facts.kernel,
        boot_id=facts.boot_id,
        memory_bytes=facts.memory_total_bytes,
        available_bytes=facts.memory_available_bytes,
        page_tables_bytes=facts.page_tables_bytes,
        processes=sum(one.processes for one in instances) + survey.others.processes,
        thp=" / ".join(word or "unknown" for word in (facts.thp.anonymous, facts.thp.shmem)),
        huge_pages_bytes=sum(map(_pool_bytes, facts.huge_page_pools)),
        mshare=facts.mshare.kernel_supported,
        instances=tuple(sorted(instances, key=lambda one: (-one.page_tables_bytes, one.name))),
        remarks=tuple(_remarks(survey)),
    )


def _pool_bytes(pool: Pool) -> int:
    # Where a kernel tells per node, the pool of the whole host is listed as well.
    return pool.page_bytes * (pool.total or 0) if pool.node is None else 0


def _remarks(survey: Survey) -> Iterable[str]:
    unread = len(survey.missing)
    if unread:
        reasons = sorted({one.reason for one in survey.missing})
        yield f"{unread:,} not read ({'; '.join(reasons[:3])})"
    elif not survey.complete:
        yield "partial"
    if survey.vanished:
        yield f"{survey.vanished:,} ended meanwhile"


def _instance(host: str, found: InstanceRecord, savings: list[Saving]) -> Instance:
    tables = found.page_tables
    largest = max(found.segments, key=lambda one: one.size_bytes, default=None)
    return Instance(
        host=host,
        name=found.name,
        kind=found.kind,
        segment=largest.kind if largest else "none",
        segments_bytes=sum(one.size_bytes for one in found.segments),
        processes=found.processes,
        processes_maximum=found.processes_maximum.value if found.processes_maximum else None,
        page_tables_bytes=tables.sum_bytes,
        page_tables_average_bytes=tables.average_bytes,
        page_tables_segments_bytes=tables.segments_bytes,
        share_of_host_percent=found.share_of_host_percent,
        figure_kind=tables.segments_kind,
        savings=tuple(savings),
    )


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _figure(value_bytes: int, kind: str) -> dict[str, Any]:
    return {"value": value_bytes, "unit": "bytes", "kind": kind}
