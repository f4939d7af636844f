# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: what page tables cost on this host, per instance of a database or of any other program."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..host import processes, segments
from ..host.processes import Missing, Process, Vanished, missing, unit
from ..host.segments import Kind, Mapping, Mappings
from ..preload import settings
from . import attribution, databases, host
from .attribution import Attribution, Identity

SCHEMA_VERSION = 1
THRESHOLD_BYTES = 256 << 10
"""Processes with smaller page tables are not looked into, unless they belong to something that was."""
Survey = dict[str, Any]


@dataclass
class _Group:
    """Processes that belong together, by the mappings they have."""

    members: dict[Mappings, list[Process]] = field(default_factory=dict)
    unreadable: bool = False

    @property
    def processes(self) -> list[Process]:
        return [process for same in self.members.values() for process in same]


def survey(exact: bool = False, threshold_bytes: int = THRESHOLD_BYTES) -> Survey:
    """Look at this host now; the answer's keys are documented in docs/survey.md. Changes nothing."""
    began = time.perf_counter()
    seen = processes.look()
    looking = _Looking(seen, threshold_bytes)
    groups = looking.groups()
    facts = host.facts()
    found = [looking.instance(group, exact, facts["page_tables_bytes"]) for group in groups]
    found.sort(key=lambda one: (-one["page_tables"]["sum_bytes"], one["name"]))
    _name_apart(found)
    counted = {pid for one in found for pid in one["pids"]}
    rest = [process for process in seen.processes if process.pid not in counted]
    gaps = seen.missing + looking.missing + _hidden(facts)
    return {
        "schema_version": SCHEMA_VERSION,
        "host": facts,
        "method": {
            "exact": exact,
            "threshold_bytes": threshold_bytes,
            "samples_per_group": None if exact else attribution.SAMPLES,
            "duration_ms": round((time.perf_counter() - began) * 1000, 1),
            "uid": os.geteuid(),
        },
        "complete": not gaps,
        "missing": gaps,
        "vanished": seen.vanished + looking.vanished,
        "instances": found,
        "others": {
            "processes": len(rest),
            "page_tables_bytes": sum(process.vm_pte_bytes for process in rest),
        },
    }


def _hidden(facts: dict[str, Any]) -> list[Missing]:
    """A /proc that hides the processes of others does not say how many there are."""
    if facts["hidepid"] is None or os.geteuid() == 0:
        return []
    return [missing(None, "processes of other users", f"/proc is mounted with hidepid={facts['hidepid']}")]


def _name_apart(found: list[Survey]) -> None:
    """Two instances of one name get a number each, in the order of their oldest process."""
    same: dict[str, list[Survey]] = {}
    for one in found:
        same.setdefault(one["name"], []).append(one)
    for name, ones in same.items():
        if len(ones) > 1:
            for number, one in enumerate(sorted(ones, key=lambda one: min(one["pids"])), 1):
                one["name"] = f"{name} #{number}"


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

    def instance(self, group: _Group, exact: bool, host_bytes: int) -> Survey:
        """One entry of `instances`."""
        members = group.processes
        first = databases.leader(members)
        executable = first.executable
        database = databases.recognise(members, executable)
        self.missing += database.missing
        found, rows = self._segments(group, exact)
        self.missing += found.missing
        self.vanished += found.vanished
        cgroup = first.cgroup()
        sizes = [process.vm_pte_bytes for process in members]
        total = sum(sizes)
        # Nothing is known of what may not be read, which is another thing than nothing.
        part = None if group.unreadable else min(total, found.bytes)
        return {
            "name": database.name,
            "kind": database.kind,
            "executable": executable,
            "unit": unit(cgroup),
            "cgroup": cgroup,
            "data_directory": database.data_directory,
            "port": database.port,
            "version": database.version,
            "sid": database.sid,
            "processes": len(members),
            "pids": sorted(process.pid for process in members),
            "threads": max(process.threads for process in members),
            "setuid": first.setuid(),
            "processes_maximum": database.processes_maximum,
            "segments": rows,
            "page_tables": {
                "sum_bytes": total,
                "average_bytes": total // len(sizes),
                "maximum_bytes": max(sizes),
                "segments_bytes": part,
                "remainder_bytes": None if part is None else total - part,
                # The sum always is; what of it is the segments' is, where every process was scanned.
                "kind": "measured" if found.scanned >= len(members) else "modelled",
            },
            "share_of_host_percent": round(100 * total / host_bytes, 2) if host_bytes else 0.0,
            "huge_pages_requested": database.huge_pages_requested,
            "preload": settings.asked(first.environment()),
        }

    def _segments(self, group: _Group, exact: bool) -> tuple[Attribution, list[Survey]]:
        found = Attribution()
        rows: dict[Identity, Survey] = {}
        for mappings, members in group.members.items():
            kinds = {one.identity: self._kind(one, members[0].pid) for one in mappings}
            for identity, kind in kinds.items():
                _merge(rows, identity, kind, mappings, len(members))
            if mappings:
                pages = {identity: kind.page_bytes for identity, kind in kinds.items()}
                found.add(attribution.attribute(members, mappings, pages, exact))
        for identity, row in rows.items():
            row["huge_bytes"] = found.huge_bytes.get(identity, 0)
            row["page_tables_bytes"] = round(found.segments.get(identity, 0))
        return found, sorted(rows.values(), key=lambda row: (-row["size_bytes"], row["address"]))


def _merge(
    rows: dict[Identity, Survey], identity: Identity, kind: Kind, mappings: Mappings, count: int
) -> None:
    """A row per segment; processes may have it mapped at several places or in several parts."""
    own = [one for one in mappings if one.identity == identity]
    size_bytes = sum(one.end - one.start for one in own)
    first = own[0]
    row = rows.setdefault(
        identity,
        {
            "kind": kind.kind,
            "name": kind.name,
            "region": os.path.basename(kind.name) if kind.kind == "msharefs" else None,
            "key": kind.key,
            "size_bytes": size_bytes,
            "page_bytes": kind.page_bytes,
            "address": first.start,
            "congruent_2mib": True,
            "aligned_1gib": True,
            "huge_bytes": 0,
            "page_tables_bytes": 0,
            "processes": 0,
        },
    )
    row["size_bytes"] = max(row["size_bytes"], size_bytes)
    row["congruent_2mib"] = row["congruent_2mib"] and all(map(segments.congruent, own))
    row["aligned_1gib"] = row["aligned_1gib"] and segments.aligned_1gib(first)
    row["processes"] += count


def changes(before: Survey, after: Survey) -> list[Survey]:
    """Per instance, what two surveys differ by; one that came or went counts from or to nothing.

    An instance is the same as long as one of its processes is left; where all are others, as after a
    restart, by its name, unless that has a number: those move up when an instance ends.
    """
    return [
        {
            "name": (new or old)["name"],
            "gone": not new,
            "oldest_pid": min((new or old)["pids"]),
            "processes": _difference(old, new, lambda one: one["processes"]),
            "page_tables_bytes": _difference(old, new, lambda one: one["page_tables"]["sum_bytes"]),
        }
        for old, new in _pairs(before["instances"], after["instances"])
    ]


def _pairs(olds: list[Survey], news: list[Survey]) -> list[tuple[Survey, Survey]]:
    """Each instance as it was and as it is; empty where it was not, or is not any more."""
    left = {old["name"]: old for old in olds}
    by_pid = {pid: old["name"] for old in olds for pid in old["pids"]}

    def claim(names: Iterable[str | None]) -> Survey:
        return left.pop(next((name for name in names if name in left), ""), {})

    by_process = [claim(by_pid.get(pid) for pid in new["pids"]) for new in news]
    found = [old or claim([] if " #" in new["name"] else [new["name"]]) for old, new in zip(by_process, news)]
    return [*zip(found, news), *((old, {}) for old in left.values())]


def _difference(old: Survey, new: Survey, figure: Callable[[Survey], Any]) -> int:
    return int((figure(new) if new else 0) - (figure(old) if old else 0))
