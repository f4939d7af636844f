# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: what page tables cost on this host, per instance of a database or of any other program."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ..host import huge_pages, limits, processes, procfs, segments
from ..host.mounts import mount_below
from ..host.processes import Missing, Process, Vanished, container, missing, unit
from ..host.segments import Kind, Mapping
from ..pagetable import LEAF_SPAN_BYTES
from ..preload import settings as preload_settings
from . import attribution, databases, host, names
from .attribution import Attribution, Identity
from .groups import Group, Grouping
from .record import (
    SCHEMA_VERSION,
    HostFacts,
    InstanceRecord,
    Limit,
    Method,
    Others,
    Range,
    SegmentRecord,
    Survey,
    Tables,
)

THRESHOLD_BYTES = 256 << 10
"""Processes with smaller page tables are not examined, unless they are related to one that is."""


def survey(exact: bool = False, threshold_bytes: int = THRESHOLD_BYTES) -> Survey:
    """Survey this host now. Changes nothing."""
    return _survey(processes.read_all, _Known(), exact, threshold_bytes)


@dataclass
class _Known:
    """What was read of processes, and need not be read again while they have not run."""

    mappings: dict[Process, segments.Mappings] = field(default_factory=dict)
    samples: attribution.Samples = field(default_factory=dict)
    helpers: dict[Process, bool] = field(default_factory=dict)

    def keep(self, present: Iterable[Process]) -> None:
        """Forget the processes that are gone, or have run since."""
        kept = set(present)
        self.mappings = {process: value for process, value in self.mappings.items() if process in kept}
        self.samples = {key: value for key, value in self.samples.items() if key[0] in kept}
        self.helpers = {process: value for process, value in self.helpers.items() if process in kept}


class Series:
    """Surveys of this host one after the other, as for a watch: each is as complete as the first.

    VmPTE is read of every process each time. Mappings and pagemap of a process are read again only when it
    has run since the survey before: until then it has neither mapped nor touched anything.
    """

    def __init__(self, exact: bool = False, threshold_bytes: int = THRESHOLD_BYTES) -> None:
        self._exact = exact
        self._threshold_bytes = threshold_bytes
        self._passes = processes.Passes()
        self._known = _Known()

    def __enter__(self) -> Series:
        return self

    def __exit__(self, *error: object) -> None:
        self._passes.close()

    def survey(self) -> Survey:
        """Survey this host now. Changes nothing."""
        return _survey(self._passes.read_all, self._known, self._exact, self._threshold_bytes)


def _survey(
    read_all: Callable[[], processes.Pass], known: _Known, exact: bool, threshold_bytes: int
) -> Survey:
    """One survey; `known` is what earlier ones have read, and is added to."""
    began = time.perf_counter()
    created_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    seen = read_all()
    known.keep(seen.processes)
    grouping = Grouping(seen, threshold_bytes, known.mappings)
    groups = grouping.groups()
    facts = host.facts()
    # PageTables has once what several processes share, and before Linux 5.10 leaf tables only.
    counted_bytes = sum(process.vm_pte_bytes for process in seen.processes)
    all_bytes = max(facts.page_tables_bytes, counted_bytes)
    outside_bytes = _outside_bytes(seen, facts, counted_bytes)
    looking = _Looking(grouping, exact, all_bytes, outside_bytes, known)
    instances = names.apart(looking.instance(group) for group in groups)
    instances.sort(key=lambda instance: (-instance.page_tables.sum_bytes, instance.name))
    counted = {pid for instance in instances for pid in instance.pids}
    rest = [process for process in seen.processes if process.pid not in counted]
    gaps = seen.missing + grouping.missing + looking.missing + _hidden(facts)
    return Survey(
        schema_version=SCHEMA_VERSION,
        created_at=created_at,
        host=facts,
        method=Method(
            exact=exact,
            threshold_bytes=threshold_bytes,
            samples_per_group=None if exact else attribution.SAMPLES,
            duration_ms=round((time.perf_counter() - began) * 1000, 1),
            uid=os.geteuid(),
        ),
        complete=not gaps,
        missing=tuple(gaps),
        vanished=seen.vanished + grouping.vanished + looking.vanished,
        instances=tuple(instances),
        others=Others(len(rest), sum(process.vm_pte_bytes for process in rest)),
    )


def _hidden(facts: HostFacts) -> list[Missing]:
    """A /proc that hides the processes of others does not say how many there are."""
    if facts.hidepid is None or os.geteuid() == 0 or procfs.may_trace():
        return []
    return [missing(None, "processes of other users", f"/proc is mounted with hidepid={facts.hidepid}")]


def _outside_bytes(seen: processes.Pass, facts: HostFacts, counted_bytes: int) -> int | None:
    """Page tables that are in no process's VmPTE: the shared tables of regions, and a few of the kernel's.

    None where processes are hidden, which may have them.
    """
    if seen.missing or _hidden(facts):
        return None
    return max(0, facts.page_tables_bytes - counted_bytes)


class _Looking:
    """One survey while its instances are made."""

    def __init__(
        self,
        grouping: Grouping,
        exact: bool,
        all_bytes: int,
        outside_bytes: int | None,
        known: _Known,
    ) -> None:
        self._grouping = grouping
        self._known = known
        self._exact = exact
        self._all_bytes = all_bytes
        self._outside_bytes = outside_bytes
        self._limits = limits.Host(keeps=True)
        self._limits_known: dict[tuple[tuple[str, str], ...], tuple[Limit, ...]] = {}
        self.missing: list[Missing] = []
        self.vanished = 0

    def instance(self, group: Group) -> names.Named:
        """One entry of `instances`, and the process its others come from."""
        members = group.processes
        first = group.leader
        executable = first.executable
        database = databases.recognise(members, first, executable, self._known.helpers)
        self.missing += database.missing
        attributed, rows = self._segments(group, first)
        self.missing += attributed.missing
        self.vanished += attributed.vanished
        cgroup = first.cgroup()
        tables_bytes = [process.vm_pte_bytes for process in members]
        sum_bytes = sum(tables_bytes)
        # Nothing is known of what may not be read, which is another thing than nothing.
        part = None if group.unreadable else min(sum_bytes, attributed.bytes)
        inside = container(cgroup)
        environment = first.environment()
        record = InstanceRecord(
            name=database.name,
            kind=database.kind,
            executable=executable,
            unit=unit(cgroup),
            cgroup=cgroup,
            container=inside,
            manager=_manager(database, inside, unit(cgroup)),
            data_directory=database.data_directory,
            port=database.port,
            version=database.version,
            sid=database.sid,
            processes=len(members),
            helpers=database.helpers,
            pids=tuple(sorted(process.pid for process in members)),
            threads=max([process.threads for process in members]),
            setuid=first.setuid(),
            processes_maximum=database.processes_maximum,
            segments=rows,
            page_tables=Tables(
                sum_bytes=sum_bytes,
                average_bytes=sum_bytes // len(tables_bytes),
                maximum_bytes=max(tables_bytes),
                segments_bytes=part,
                remainder_bytes=None if part is None else sum_bytes - part,
                kind="measured",
                segments_kind="measured" if attributed.scanned >= len(members) else "modelled",
            ),
            share_of_host_percent=round(100 * sum_bytes / self._all_bytes, 2) if self._all_bytes else 0.0,
            huge_pages_requested=database.huge_pages_requested,
            settings=database.settings,
            preload=preload_settings.requested_pages(environment),
            thp_disabled=first.thp_enabled is False,
            limits=self._limits_of(first),
            preload_mapped=_preload_mapped(first, environment),
            hostname=environment.get("HOSTNAME") if inside else None,
            volume=_volume(first, database.data_directory) if inside else None,
        )
        return names.Named(record, first)

    def _limits_of(self, process: Process) -> tuple[Limit, ...]:
        """The cgroup limits on memory and on huge pages of each size that apply to a process."""
        paths = process.cgroups()
        key = tuple(sorted(paths.items()))
        if key not in self._limits_known:
            self._limits_known[key] = self._limits_of_paths(paths)
        return self._limits_known[key]

    def _limits_of_paths(self, paths: dict[str, str]) -> tuple[Limit, ...]:
        limits = []
        for resource, controller, v1_file, v2_file in _limited():
            below = next(
                (path for names, path in paths.items() if controller in names.split(",")), paths.get("")
            )
            for limit in self._limits.cgroup_limits(controller, v1_file, v2_file, below):
                left = self._limits.cgroup_memory_left(limit) if controller == "memory" else None
                limits.append(Limit(resource, limit.path, limit.limit, left))
        return tuple(limits)

    def _segments(self, group: Group, first: Process) -> tuple[Attribution, tuple[SegmentRecord, ...]]:
        """What the segments cost, and a row for each, the largest first."""
        attributed = Attribution()
        rows: dict[Identity, _Row] = {}
        for mappings, members in group.members.items():
            kinds = {mapping.identity: self._grouping.kind(mapping, members[0].pid) for mapping in mappings}
            parts: dict[Identity, list[Mapping]] = {}
            for mapping in mappings:
                parts.setdefault(mapping.identity, []).append(mapping)
            for identity, kind in kinds.items():
                rows.setdefault(identity, _Row(kind)).add(parts[identity], members)
            # Tables of a kernel's regions are in nobody's VmPTE, and their windows are not to be scanned.
            own = tuple(mapping for mapping in mappings if not kinds[mapping.identity].shares_tables)
            if own:
                pages = {identity: kind.page_bytes for identity, kind in kinds.items()}
                attributed.add(attribution.attribute(members, own, pages, self._exact, self._known.samples))
            else:
                attributed.scanned += len(members)
        regions = sum(row.kind.shares_tables for row in rows.values())
        records = []
        for identity, row in rows.items():
            tables_bytes: int | None = round(attributed.segments.get(identity, 0))
            if row.kind.shares_tables:
                tables_bytes = self._outside_bytes if regions == 1 and self._only_region(identity) else None
            short_lived = row.is_without(first, group.processes)
            records.append(row.record(attributed.huge_bytes.get(identity, 0), tables_bytes, short_lived))
        return attributed, tuple(sorted(records, key=lambda row: (-row.size_bytes, row.address)))

    def _only_region(self, identity: Identity) -> bool:
        return self._grouping.shared_tables == {identity}


def _preload_mapped(process: Process, environment: dict[str, str]) -> bool | None:
    """Whether a process that was started with the preloaded library has it mapped."""
    if not preload_settings.has_ours(environment):
        return None
    try:
        maps = processes.read(process.path("maps"))
    except (Vanished, PermissionError):
        return None
    return f"/{preload_settings.FILE_NAME}".encode() in maps


# Docker and Podman keep a volume in .../volumes/NAME/_data. One without a name is called by 64 digits, anew
# for each container.
_VOLUME = re.compile(r".*/volumes/([^/]+)/_data(?:/|\Z)")
_UNNAMED = re.compile(r"[0-9a-f]{64}")


def _volume(process: Process, data_directory: str | None) -> str | None:
    """What a container's data directory lies on: a volume by its name, else by path or device."""
    if data_directory is None:
        return None
    try:
        text = processes.text(process.path("mountinfo"))
    except (Vanished, PermissionError):
        return None
    mount = mount_below(text, data_directory)
    if mount is None or mount.path == "/":
        return None
    named = _VOLUME.match(mount.inside)
    if named:
        return None if _UNNAMED.fullmatch(named[1]) else named[1]
    whole = mount.source if "/" in mount.source else None
    return whole if mount.inside == "/" else mount.inside


def _limited() -> list[tuple[str, str, str, str]]:
    """Resource, controller, and the files of its limit in cgroup v1 and v2."""
    rows = [("memory", "memory", "memory.limit_in_bytes", "memory.max")]
    for page_bytes in huge_pages.sizes_bytes():
        size = huge_pages.controller_size(page_bytes)
        # One for pages in use, which kills, and one for those that are promised, which mmap fails by.
        for which in (size, f"{size}.rsvd"):
            names = (f"hugetlb.{which}.limit_in_bytes", f"hugetlb.{which}.max")
            rows.append((f"hugetlb {size}", "hugetlb", *names))
    return rows


# By LXC or systemd-nspawn: a container with a system in it, where an administrator edits files as elsewhere.
# That of one program is called by the digits of its id.
_SYSTEM_CONTAINER = re.compile(r"container (?![0-9a-f]{12}\Z).+")


# Of the packages of Debian and of PGDG: they start PostgreSQL itself.
_UNIT_OF_POSTGRESQL = re.compile(r"postgresql(?:@.+|-[0-9.]+)\.service")


def _manager(database: databases.Database, inside: str | None, unit_name: str | None) -> str | None:
    """Who writes a database's configuration, where it is not an administrator's own file."""
    # Patroni leaves its file behind in a cluster that it no longer runs, and a backup takes the file along.
    left_over = inside is None and _UNIT_OF_POSTGRESQL.fullmatch(unit_name or "")
    if database.has_patronis_file and not left_over:
        return "patroni"
    if inside is None or _SYSTEM_CONTAINER.fullmatch(inside):
        return None
    return "kubernetes" if inside.startswith("pod ") else "container"


@dataclass
class _Row:
    """A segment while it is gathered; processes may map it at several places or in several parts."""

    kind: Kind
    parts: list[Mapping] = field(default_factory=list)
    size_bytes: int = 0
    members: list[Process] = field(default_factory=list)
    congruent_2mib: bool = True
    aligned_1gib: bool = True

    def add(self, parts: list[Mapping], members: list[Process]) -> None:
        size_bytes = _size_bytes(parts)
        if size_bytes > self.size_bytes:
            self.parts, self.size_bytes = parts, size_bytes
        self.congruent_2mib = self.congruent_2mib and all(map(segments.congruent, parts))
        self.aligned_1gib = self.aligned_1gib and segments.aligned_1gib(parts[0])
        self.members += members

    def is_without(self, leader: Process, group: list[Process]) -> bool:
        """Whether some that the leader has started have it, and the leader itself has not."""
        if leader in self.members:
            return False
        parents = {process.pid: process.parent for process in group}
        return all(_is_below(process.parent, leader.pid, parents) for process in self.members)

    def record(self, huge_bytes: int, page_tables_bytes: int | None, short_lived: bool) -> SegmentRecord:
        kind = self.kind
        return SegmentRecord(
            kind=kind.kind,
            name=kind.name,
            region=kind.region,
            key=kind.key,
            size_bytes=self.size_bytes,
            page_bytes=kind.page_bytes,
            address=self.parts[0].start,
            ranges=_ranges(self.parts),
            congruent_2mib=self.congruent_2mib,
            aligned_1gib=self.aligned_1gib,
            huge_bytes=huge_bytes,
            page_tables_bytes=page_tables_bytes,
            processes=len(self.members),
            short_lived=short_lived,
        )


def _is_below(pid: int, above: int, parents: dict[int, int]) -> bool:
    """Whether a process is another one, or a descendant of it within a group."""
    # Bounded: parents are read one after the other, and pids are used again.
    for __ in parents:
        if pid == above or pid not in parents:
            break
        pid = parents[pid]
    return pid == above


def _size_bytes(parts: list[Mapping]) -> int:
    """How much of a segment is mapped. What is mapped at several addresses, as by Java's ZGC, counts once."""
    size_bytes = known_end = 0
    for start, end in sorted((part.offset, part.offset + part.end - part.start) for part in parts):
        size_bytes += max(0, end - max(start, known_end))
        known_end = max(known_end, end)
    return size_bytes


def _ranges(parts: list[Mapping]) -> tuple[Range, ...]:
    """Where a segment is mapped; parts between which no leaf table is skipped are one range."""
    ranges: list[list[int]] = []
    for part in parts:
        if ranges and part.start // LEAF_SPAN_BYTES <= (ranges[-1][1] - 1) // LEAF_SPAN_BYTES + 1:
            ranges[-1][1] = part.end
        else:
            ranges.append([part.start, part.end])
    return tuple(Range(start, end - start) for start, end in ranges)


@dataclass(frozen=True)
class Change:
    """What an instance differs by between two surveys."""

    name: str
    gone: bool
    oldest_pid: int
    processes: int
    page_tables_bytes: int


def changes(before: Survey, after: Survey) -> list[Change]:
    """Per instance, how two surveys differ; an instance in only one of them counts from or to nothing.

    An instance is the same as long as one of its processes is left; where all are others, as after a
    restart, by its name, unless that names a process.
    """
    return [_change(old, new) for old, new in _pairs(before.instances, after.instances)]


def _change(old: InstanceRecord | None, new: InstanceRecord | None) -> Change:
    left, right = (0 if instance is None else instance.processes for instance in (old, new))
    before, after = (0 if instance is None else instance.page_tables.sum_bytes for instance in (old, new))
    named = new or old
    assert named is not None
    return Change(named.name, new is None, min(named.pids), right - left, after - before)


def _pairs(
    olds: Iterable[InstanceRecord], news: Iterable[InstanceRecord]
) -> list[tuple[InstanceRecord | None, InstanceRecord | None]]:
    """Each instance as it was and as it is; None where it was not, or is not any more."""
    left = {old.name: old for old in olds}
    by_pid = {pid: old.name for old in left.values() for pid in old.pids}

    def claim(names: Iterable[str | None]) -> InstanceRecord | None:
        return left.pop(next((name for name in names if name in left), ""), None)

    present = list(news)
    by_process = [claim(by_pid.get(pid) for pid in new.pids) for new in present]
    pairs = [
        old or claim([] if "(process " in new.name else [new.name]) for old, new in zip(by_process, present)
    ]
    return [*zip(pairs, present), *((old, None) for old in left.values())]
