# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made from: instances, their segments and the host, from a survey or from arguments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from ..clients.spec import CLIENTS_MAXIMUM
from ..errors import InvalidRequest
from ..host import huge_pages
from ..labels import Kind
from ..pagetable import BASE_PAGE_BYTES, TABLE_BYTES, page_tables
from ..survey.record import OPCACHE_KINDS, HostFacts, InstanceRecord, Limit, Range, SegmentRecord, Survey
from ..units import GIB, MIB, counted, format_size, round_up

# Below it, all segments of an instance together have a leaf table or two per process: nothing to plan.
_SMALLEST_BYTES = 2 * MIB
# What the ends of a segment that fill no 2 MiB, and a page here and there, leave in small pages.
_MOSTLY = 0.9
_STILL_SMALL = 0.3
"""The share of the tables for small pages from which on some processes are taken to have them."""


@dataclass(frozen=True)
class Segment:
    """Shared memory of an instance. None is what was not examined."""

    kind: str
    name: str
    size_bytes: int
    page_bytes: int = BASE_PAGE_BYTES
    address: int | None = None
    congruent_2mib: bool | None = None
    aligned_1gib: bool | None = None
    huge_bytes: int = 0
    page_tables_bytes: int | None = None
    """Over all processes that have it; None when planned from arguments."""
    processes: int = 0
    ranges: tuple[Range, ...] = ()
    """Where a process has it mapped; empty: at `address`, in one piece."""

    @property
    def places(self) -> tuple[Range, ...]:
        return self.ranges or (Range(self.address or 0, self.size_bytes),)

    @property
    def is_huge(self) -> bool:
        """Whether huge pages map it already, no matter who requested them."""
        if self.page_bytes > BASE_PAGE_BYTES:
            return True
        # In one process at least; where the others still have leaf tables, they have yet to be collapsed.
        full_bytes = self.processes * page_tables(self.size_bytes).total_bytes
        with_leaf_tables = (self.page_tables_bytes or 0) > _STILL_SMALL * full_bytes and self.processes > 0
        return self.huge_bytes >= _MOSTLY * self.size_bytes and not with_leaf_tables

    @classmethod
    def from_survey(cls, record: SegmentRecord, repeated_bytes: int = 0) -> Segment:
        """`repeated_bytes` is what the survey counted in more than one process."""
        segment = cls(**{name: getattr(record, name) for name in cls.__dataclass_fields__})
        if not repeated_bytes:
            return segment
        return replace(segment, page_tables_bytes=(segment.page_tables_bytes or 0) - repeated_bytes)


@dataclass(frozen=True)
class Instance:
    """A database, or another program, whose processes share segments."""

    name: str
    kind: str
    segments: tuple[Segment, ...]
    clients_maximum: int
    maximum_source: str
    processes: int | None = None
    """Today; None when planned from arguments."""
    threads: int = 1
    setuid: bool = False
    unit: str | None = None
    version: str | None = None
    tables_bytes: int | None = None
    """Page tables of all its processes today, those of the segments included; what they share counts once."""
    repeated_bytes: int = 0
    """What the VmPTE of its processes adds to that, because it counts shared tables in each of them."""
    tables_kind: Kind = "modelled"
    helpers: int = 0
    """Processes of today that the maximum does not count."""
    region: str | None = None
    """A region that it has mapped: its memory is there."""
    regions_bytes: int = 0
    pid: int | None = None
    """One of its processes, the oldest as a rule."""
    executable: str | None = None
    data_directory: str | None = None
    sid: str | None = None
    container: str | None = None
    manager: str | None = None
    huge_pages_requested: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    preload: str | None = None
    thp_disabled: bool = False
    limits: tuple[Limit, ...] = ()

    @property
    def major_version(self) -> tuple[int, ...] | None:
        """(9, 4), (15,): what tells what a PostgreSQL can; None where it is not known."""
        parts = (self.version or "").split(".")
        if not all(part.isdigit() for part in parts):
            return None
        return tuple(map(int, parts[: 2 if int(parts[0]) < 10 else 1]))

    @property
    def done(self) -> str | None:
        """Why nothing is left to do: where its memory is already."""
        if self.segments and all(segment.is_huge for segment in self.segments):
            sizes = {segment.page_bytes for segment in self.segments}
            kind = "transparent huge pages" if sizes == {BASE_PAGE_BYTES} else "huge pages"
            return f"its shared memory is in {kind} already" + (
                " through the preload" if self.preload else ""
            )
        if self.region and self.regions_bytes >= _MOSTLY * (self.regions_bytes + self.size_bytes):
            return f"its shared memory is in region {self.region} already"
        return None

    @property
    def in_image(self) -> bool:
        """Whether it runs from an image: its files cannot be changed where it runs, unlike in a container
        that has a whole system in it."""
        return self.manager in ("container", "kubernetes") or (
            self.manager == "patroni" and self.container is not None
        )

    @property
    def program(self) -> str:
        """The name of its program's file."""
        return os.path.basename((self.executable or "").replace(" (deleted)", ""))

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)

    def huge_bytes(self, page_bytes: int) -> int:
        """Its segments in small pages, in whole huge pages of a size."""
        return sum(round_up(size, page_bytes) * count for size, count in self._small_sizes.items())

    @cached_property
    def _small_sizes(self) -> Counter[int]:
        # Of granules there may be thousands, all of one size.
        return Counter(
            segment.size_bytes for segment in self.segments if segment.page_bytes == BASE_PAGE_BYTES
        )

    @property
    def remainder_bytes(self) -> int:
        """Page tables today that belong to no planned segment: no remedy changes them."""
        planned = sum(segment.page_tables_bytes or 0 for segment in self.segments)
        return max(0, (self.tables_bytes or 0) - planned)

    def attached(self, segment: Segment, clients: int) -> int:
        """How many of `clients` processes have a segment: those that come, or go, are its clients."""
        if self.processes is None:
            return clients
        present = self.processes - self.helpers
        if segment.processes < _MOSTLY * present:
            # Some processes only: as many of those that come as of those that are there.
            return -(-segment.processes * clients // present)
        return max(0, segment.processes + clients - present)

    def remainder_at(self, clients: int) -> int:
        """The remainder, scaled by the average to a number of processes."""
        return self.remainder_bytes * (clients + self.helpers) // self.processes if self.processes else 0

    @property
    def repeated(self) -> str | None:
        """Why its page tables are less than the sum of VmPTE; None where they are that sum."""
        if not self.repeated_bytes:
            return None
        counted_bytes = (self.tables_bytes or 0) + self.repeated_bytes
        return (
            f"{self.name}: VmPTE of its processes adds up to {format_size(counted_bytes)}, of which"
            f" {format_size(self.repeated_bytes)} are no memory (modelled): they share page tables of their"
            " huge pages, and the kernel counts these in each process."
        )

    @classmethod
    def from_survey(
        cls, record: InstanceRecord, clients: int | None, repeated: Sequence[int] | None = None
    ) -> Instance:
        """`repeated` is, for each segment, what VmPTE counts in more than one process."""
        repeated = repeated or [0] * len(record.segments)
        segments = [
            Segment.from_survey(segment, repeated_bytes)
            for segment, repeated_bytes in zip(record.segments, repeated)
            if not segment.short_lived and segment.kind != "msharefs"
        ]
        if sum(segment.size_bytes for segment in segments) < _SMALLEST_BYTES:
            segments = []
        regions = [segment for segment in record.segments if segment.kind == "msharefs"]
        maximum, source = _maximum(record, clients)
        return cls(
            name=record.name,
            kind=record.kind,
            segments=tuple(segments),
            clients_maximum=maximum,
            maximum_source=source,
            processes=record.processes,
            threads=record.threads,
            setuid=record.setuid,
            unit=record.unit,
            version=record.version,
            # Segments are read after VmPTE: of a process that changes meanwhile they can be more.
            tables_bytes=max(0, record.page_tables.sum_bytes - sum(repeated)),
            repeated_bytes=sum(repeated),
            tables_kind="modelled" if any(repeated) else record.page_tables.kind,
            helpers=record.helpers,
            region=regions[0].region if regions else None,
            regions_bytes=sum(region.size_bytes for region in regions),
            pid=min(record.pids, default=None),
            executable=record.executable,
            data_directory=record.data_directory,
            sid=record.sid,
            container=record.container,
            manager=record.manager,
            huge_pages_requested=record.huge_pages_requested,
            settings=record.settings,
            preload=record.preload,
            thp_disabled=record.thp_disabled,
            limits=record.limits,
        )


def _maximum(record: InstanceRecord, clients: int | None) -> tuple[int, str]:
    """The maximum number of processes, and its source. Never below today's number, unless requested."""
    if clients is not None:
        return clients, "asked for"
    configured, present = record.processes_maximum, record.processes - record.helpers
    if configured is None or configured.value < present:
        return max(1, present), "attached now; no larger maximum is known"
    return configured.value, configured.source


@dataclass(frozen=True)
class Pool:
    """Huge pages of one size that the kernel has set aside."""

    total: int
    used: int
    """In use or promised to somebody."""
    nodes: int = 1
    """NUMA nodes that have a part of it."""


@dataclass(frozen=True)
class Host:
    """What decides which remedies are open. Nothing known: every field at its default."""

    surveyed: bool = False
    name: str | None = None
    kernel: str | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    thp_shmem: str | None = None
    huge_page_default_bytes: int | None = 2 * MIB
    opcache: tuple[tuple[str, int], ...] = ()
    """Who takes huge pages first, wherever there are any, and how much: PHP's OPcache."""
    pools: Mapping[int, Pool] = field(default_factory=dict)
    kernel_has_mshare: bool = False
    generation: str | None = None

    def other_pools_bytes(self, page_bytes: int) -> int:
        """RAM set aside for pages of other sizes, free ones as well, as for guests that do not run now."""
        return sum(size * pool.total for size, pool in self.pools.items() if size != page_bytes)

    def taken_bytes(self, page_bytes: int) -> int:
        """RAM that pools have and that pages of a size cannot get: what is used of that size's own pool, and
        all of the others."""
        own = self.pools.get(page_bytes)
        return self.other_pools_bytes(page_bytes) + (0 if own is None else page_bytes * own.used)

    @classmethod
    def from_survey(cls, facts: HostFacts, opcache: tuple[tuple[str, int], ...]) -> Host:
        return cls(
            surveyed=True,
            name=facts.name,
            kernel=facts.kernel,
            memory_total_bytes=facts.memory_total_bytes,
            memory_available_bytes=facts.memory_available_bytes,
            thp_shmem=facts.thp.shmem,
            huge_page_default_bytes=facts.huge_page_default_bytes,
            opcache=opcache,
            pools=_pools(facts.huge_page_pools),
            kernel_has_mshare=facts.mshare.kernel_supported,
            generation=facts.mshare.generation,
        )


def _pools(entries: Iterable[huge_pages.Pool]) -> dict[int, Pool]:
    """By page size: the host's own figures, which the kernel keeps as the sum over its NUMA nodes."""
    known = tuple(entries)
    return {
        entry.page_bytes: Pool(
            entry.total or 0,
            # Reserved pages are promised, and still counted as free.
            max(0, (entry.total or 0) - (entry.free or 0) + (entry.reserved or 0)),
            max(1, sum(each.page_bytes == entry.page_bytes and each.node is not None for each in known)),
        )
        for entry in known
        if entry.node is None
    }


@dataclass(frozen=True)
class Facts:
    """All that a plan stands on."""

    source: Literal["survey", "wishes"]
    host: Host
    instances: tuple[Instance, ...]
    complete: bool = True
    surveyed_at: str | None = None


def from_survey(survey: Survey, instance: str | None = None, clients: int | None = None) -> Facts:
    """The facts of a survey; `instance` picks one, `clients` replaces the configured maximum.

    Raises InvalidRequest for an unknown instance, and for clients that no host has.
    """
    if clients is not None:
        check_clients(clients)
    instances = tuple(
        Instance.from_survey(instance, clients, repeated)
        for instance, repeated in zip(survey.instances, _repeated(survey))
    )
    return Facts(
        source="survey",
        host=Host.from_survey(survey.host, tuple(_opcache(survey))),
        instances=_picked(instances, instance),
        complete=survey.complete,
        surveyed_at=survey.created_at,
    )


def whole_gib(start: int, size_bytes: int) -> int:
    """Whole, aligned ranges of 1 GiB: the kernel shares a PMD table of huge pages only for those."""
    return max(0, (start + size_bytes) // GIB - -(-start // GIB))


def _repeated(survey: Survey) -> list[tuple[int, ...]]:
    """For each instance and each of its segments: the bytes that VmPTE counts in more than one process.

    Processes share the PMD table of each whole, aligned GiB of static huge pages (huge_pmd_share in
    mm/hugetlb.c), and Linux adds it to the VmPTE of every one of them. PageTables of the host has it once:
    no more is taken off than the sum of all VmPTE has beyond PageTables.
    """
    modelled = [tuple(map(_shared_pmd_bytes, instance.segments)) for instance in survey.instances]
    most_bytes = sum(map(sum, modelled))
    counted_bytes = survey.others.page_tables_bytes + sum(
        instance.page_tables.sum_bytes for instance in survey.instances
    )
    beyond_bytes = max(0, counted_bytes - survey.host.page_tables_bytes)
    if beyond_bytes >= most_bytes:
        return modelled
    return [tuple(each * beyond_bytes // most_bytes for each in repeated) for repeated in modelled]


def _shared_pmd_bytes(segment: SegmentRecord) -> int:
    """PMD tables that all processes of a segment share, for all of these but one."""
    if segment.page_bytes != 2 * MIB or segment.processes < 2:
        return 0
    shared_bytes = TABLE_BYTES * sum(whole_gib(part.start, part.size_bytes) for part in segment.ranges)
    full_bytes = sum(
        page_tables(part.size_bytes, segment.page_bytes, part.start).total_bytes for part in segment.ranges
    )
    measured_bytes = segment.page_tables_bytes or 0
    # Of what was measured, for not all of it may be touched.
    per_process = measured_bytes * shared_bytes // max(1, full_bytes) // segment.processes
    return per_process * (segment.processes - 1)


def takes_by_itself(program_kind: str, segment: Segment | SegmentRecord) -> bool:
    """Whether a program puts a segment into huge pages as soon as there are any, as PHP does with OPcache, in
    whole pages. What is in the pool already is not meant: it is among the pages in use."""
    whole = segment.kind == "anonymous" and segment.size_bytes % (2 * MIB) == 0
    return program_kind in OPCACHE_KINDS and whole


def _opcache(survey: Survey) -> Iterable[tuple[str, int]]:
    for instance in survey.instances:
        if instance.kind in OPCACHE_KINDS:
            size_bytes = sum(
                segment.size_bytes for segment in instance.segments if takes_by_itself(instance.kind, segment)
            )
            if size_bytes:
                yield instance.name, size_bytes


def _picked(instances: tuple[Instance, ...], name: str | None) -> tuple[Instance, ...]:
    if name is None:
        return instances
    matching = tuple(instance for instance in instances if instance.name == name)
    if not matching:
        names = ", ".join(instance.name for instance in instances) or "none"
        raise InvalidRequest(f"the survey has no instance {name!r}; it has: {names}")
    return matching


def from_arguments(
    size_bytes: int, clients: int, name: str | None = None, memory_bytes: int | None = None
) -> Facts:
    """A segment nobody has seen yet: every process touches all of it, nothing of the host is known."""
    check_clients(clients)
    segment = Segment("anonymous", "wished for", size_bytes)
    instance = Instance(name or "sga", "wish", (segment,), clients, "asked for")
    return Facts("wishes", replace(Host(), memory_total_bytes=memory_bytes), (instance,))


def check_clients(clients: int) -> int:
    """How many processes to plan for; InvalidRequest outside 1..32768 x 128."""
    most = CLIENTS_MAXIMUM * 128
    # The most that pid_max can be on 64 bits: more processes no host has.
    if isinstance(clients, bool) or not 1 <= clients <= most:
        raise InvalidRequest(
            f"{counted(clients, 'client')} cannot be planned for; use 1 to {most}, like 1500"
        )
    return clients
