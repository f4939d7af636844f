# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: what page tables cost on this host, per instance of a database or of any other program."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from ..host import processes, segments
from ..host.processes import Missing, Process, Vanished, missing, unit
from ..host.segments import Kind, Mapping, Mappings
from ..pagetable import LEAF_SPAN_BYTES
from ..preload import settings
from . import attribution, databases, host
from .attribution import Attribution, Identity
from .record import (
    SCHEMA_VERSION,
    HostFacts,
    InstanceRecord,
    Method,
    Others,
    Range,
    SegmentRecord,
    Survey,
    Tables,
)

THRESHOLD_BYTES = 256 << 10
"""Processes with smaller page tables are not looked into, unless they belong to something that was."""


@dataclass
class _Group:
    """Processes that belong together, by the mappings they have."""

    members: dict[Mappings, list[Process]] = field(default_factory=dict)
    unreadable: bool = False

    @property
    def processes(self) -> list[Process]:
        return [process for same in self.members.values() for process in same]


def survey(exact: bool = False, threshold_bytes: int = THRESHOLD_BYTES) -> Survey:
    """Survey this host now. Changes nothing."""
    began = time.perf_counter()
    created_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    seen = processes.look()
    looking = _Looking(seen, threshold_bytes)
    groups = looking.groups()
    facts = host.facts()
    instances = [looking.instance(group, exact, facts.page_tables_bytes) for group in groups]
    instances.sort(key=lambda one: (-one.page_tables.sum_bytes, one.name))
    counted = {pid for one in instances for pid in one.pids}
    rest = [process for process in seen.processes if process.pid not in counted]
    gaps = seen.missing + looking.missing + _hidden(facts)
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
        vanished=seen.vanished + looking.vanished,
        instances=tuple(_named_apart(instances)),
        others=Others(len(rest), sum(process.vm_pte_bytes for process in rest)),
    )


def _hidden(facts: HostFacts) -> list[Missing]:
    """A /proc that hides the processes of others does not say how many there are."""
    if facts.hidepid is None or os.geteuid() == 0:
        return []
    return [missing(None, "processes of other users", f"/proc is mounted with hidepid={facts.hidepid}")]


def _named_apart(instances: list[InstanceRecord]) -> list[InstanceRecord]:
    """Two instances of one name get a number each, in the order of their oldest process."""
    same: dict[str, list[InstanceRecord]] = {}
    for one in instances:
        same.setdefault(one.name, []).append(one)
    renamed = {
        min(one.pids): f"{name} #{number}"
        for name, ones in same.items()
        if len(ones) > 1
        for number, one in enumerate(sorted(ones, key=lambda one: min(one.pids)), 1)
    }
    return [replace(one, name=renamed.get(min(one.pids), one.name)) for one in instances]


class _Looking:
    """One survey while it is made."""

    def __init__(self, seen: processes.Pass, threshold_bytes: int) -> None:
        self._seen = seen
        self._threshold_bytes = threshold_bytes
        self._reader = segments.Reader()
        self._devices = segments.Devices()
        self._mappings: dict[int, Mappings] = {}
        self._unreadable: list[Process] = []
        self.missing: list[Missing] = []
        self.vanished = 0

    def groups(self) -> list[_Group]:
        """Processes by instance: whoever shares a segment belongs together."""
        large: list[Process] = []
        small: list[Process] = []
        for process in self._seen.processes:
            wanted = process.vm_pte_bytes >= self._threshold_bytes or databases.suspected(process.name)
            (large if wanted else small).append(process)
        attached = [process for process in large if self._look(process)]
        families = {(process.name, process.parent) for process in attached}
        families |= {(process.name, process.pid) for process in attached}
        parents = {process.parent for process in attached}
        names = {process.name for process in attached}
        # Fresh children and idle parents of those found, which are as much clients as they are.
        attached += [
            process
            for process in small
            if process.name in names
            and ((process.name, process.parent) in families or process.pid in parents)
            and self._look(process)
        ]
        return self._united(attached) + self._unknown()

    def _look(self, process: Process) -> bool:
        """Read a process's mappings; whether it has segments."""
        try:
            mappings = self._reader.shared(process)
        except (Vanished, ProcessLookupError):
            self.vanished += 1
            return False
        except PermissionError:
            self.missing.append(missing(process.pid, "maps"))
            self._unreadable.append(process)
            return False
        if mappings:
            self._mappings[process.pid] = mappings
        return bool(mappings)

    def _united(self, attached: list[Process]) -> list[_Group]:
        same: dict[Mappings, list[Process]] = {}
        for process in attached:
            same.setdefault(self._mappings[process.pid], []).append(process)
        groups: list[tuple[set[object], _Group]] = []
        for mappings, members in same.items():
            keys = self._keys(mappings, members[0])
            group = _Group({mappings: members})
            others = []
            for known in groups:
                if known[0] & keys:
                    keys |= known[0]
                    group.members = {**known[1].members, **group.members}
                else:
                    others.append(known)
            groups = [*others, (keys, group)]
        return [group for __, group in groups]

    def _keys(self, mappings: Mappings, process: Process) -> set[object]:
        keys: set[object] = set()
        for mapping in mappings:
            kind = self._kind(mapping, process.pid).kind
            # The same file is often read by strangers; that alone makes nobody a part of them.
            keys.add((mapping.identity, process.executable) if kind == "file" else mapping.identity)
        return keys

    def _kind(self, mapping: Mapping, pid: int) -> Kind:
        return segments.kind(mapping, self._devices.of(mapping, pid))

    def _unknown(self) -> list[_Group]:
        """Whose mappings may not be read: by name, user and cgroup, so that VmPTE is still told."""
        same: dict[object, list[Process]] = {}
        for process in self._unreadable:
            same.setdefault((process.name, process.uid, process.cgroup()), []).append(process)
        return [_Group({(): members}, unreadable=True) for members in same.values()]

    def instance(self, group: _Group, exact: bool, host_bytes: int) -> InstanceRecord:
        """One entry of `instances`."""
        members = group.processes
        first = databases.leader(members)
        executable = first.executable
        database = databases.recognise(members, executable)
        self.missing += database.missing
        attributed, rows = self._segments(group, first, exact)
        self.missing += attributed.missing
        self.vanished += attributed.vanished
        cgroup = first.cgroup()
        sizes = [process.vm_pte_bytes for process in members]
        total = sum(sizes)
        # Nothing is known of what may not be read, which is another thing than nothing.
        part = None if group.unreadable else min(total, attributed.bytes)
        return InstanceRecord(
            name=database.name or first.name,
            kind=database.kind,
            executable=executable,
            unit=unit(cgroup),
            cgroup=cgroup,
            container=None,
            manager=None,
            data_directory=database.data_directory,
            port=database.port,
            version=database.version,
            sid=database.sid,
            processes=len(members),
            helpers=0,
            pids=tuple(sorted(process.pid for process in members)),
            threads=max(process.threads for process in members),
            setuid=first.setuid(),
            processes_maximum=database.processes_maximum,
            segments=rows,
            page_tables=Tables(
                sum_bytes=total,
                average_bytes=total // len(sizes),
                maximum_bytes=max(sizes),
                segments_bytes=part,
                remainder_bytes=None if part is None else total - part,
                kind="measured",
                segments_kind="measured" if attributed.scanned >= len(members) else "modelled",
            ),
            share_of_host_percent=round(100 * total / host_bytes, 2) if host_bytes else 0.0,
            huge_pages_requested=database.huge_pages_requested,
            settings={},
            preload=settings.asked(first.environment()),
            thp_disabled=False,
            limits=(),
        )

    def _segments(
        self, group: _Group, first: Process, exact: bool
    ) -> tuple[Attribution, tuple[SegmentRecord, ...]]:
        """What the segments cost, and a row for each, the largest first."""
        attributed = Attribution()
        rows: dict[Identity, _Row] = {}
        for mappings, members in group.members.items():
            kinds = {one.identity: self._kind(one, members[0].pid) for one in mappings}
            for identity, kind in kinds.items():
                row = rows.setdefault(identity, _Row(kind))
                row.add([one for one in mappings if one.identity == identity], len(members))
                row.of_leader = row.of_leader or first in members
            if mappings:
                pages = {identity: kind.page_bytes for identity, kind in kinds.items()}
                attributed.add(attribution.attribute(members, mappings, pages, exact))
        records = [
            row.record(attributed.huge_bytes.get(identity, 0), round(attributed.segments.get(identity, 0)))
            for identity, row in rows.items()
        ]
        return attributed, tuple(sorted(records, key=lambda row: (-row.size_bytes, row.address)))


@dataclass
class _Row:
    """A segment while it is gathered; processes may map it at several places or in several parts."""

    kind: Kind
    parts: list[Mapping] = field(default_factory=list)
    size_bytes: int = 0
    processes: int = 0
    congruent_2mib: bool = True
    aligned_1gib: bool = True
    of_leader: bool = False

    def add(self, parts: list[Mapping], count: int) -> None:
        size_bytes = sum(one.end - one.start for one in parts)
        if size_bytes > self.size_bytes:
            self.parts, self.size_bytes = parts, size_bytes
        self.congruent_2mib = self.congruent_2mib and all(map(segments.congruent, parts))
        self.aligned_1gib = self.aligned_1gib and segments.aligned_1gib(parts[0])
        self.processes += count

    def record(self, huge_bytes: int, page_tables_bytes: int) -> SegmentRecord:
        kind = self.kind
        return SegmentRecord(
            kind=kind.kind,
            name=kind.name,
            region=os.path.basename(kind.name) if kind.kind == "msharefs" else None,
            key=kind.key,
            size_bytes=self.size_bytes,
            page_bytes=kind.page_bytes,
            address=self.parts[0].start,
            ranges=_ranges(self.parts),
            congruent_2mib=self.congruent_2mib,
            aligned_1gib=self.aligned_1gib,
            huge_bytes=huge_bytes,
            page_tables_bytes=page_tables_bytes,
            processes=self.processes,
            short_lived=not self.of_leader,
        )


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
    """Per instance, what two surveys differ by; one that came or went counts from or to nothing.

    An instance is the same as long as one of its processes is left; where all are others, as after a
    restart, by its name, unless that has a number: those move up when an instance ends.
    """
    return [_change(old, new) for old, new in _pairs(before.instances, after.instances)]


def _change(old: InstanceRecord | None, new: InstanceRecord | None) -> Change:
    left, right = (0 if one is None else one.processes for one in (old, new))
    before, after = (0 if one is None else one.page_tables.sum_bytes for one in (old, new))
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
    pairs = [old or claim([] if " #" in new.name else [new.name]) for old, new in zip(by_process, present)]
    return [*zip(pairs, present), *((old, None) for old in left.values())]
