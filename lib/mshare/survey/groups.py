# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes are one instance: one server, or one program whose processes share memory.

Memory that only a server's own processes can have makes them one: shared anonymous memory, System V, POSIX
and huge page segments, regions. So does descent from one postmaster. A file does not: strangers map it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from ..host import segments
from ..host.processes import Missing, Pass, Process, Vanished, missing
from ..host.segments import Kind, Mapping, Mappings
from ..units import MIB
from . import databases
from .attribution import Identity

MATTERS_BYTES = 16 * MIB
"""Processes that share no memory are an instance when they pay this: one alone, or small ones together."""
_OF_FILES = ("file", "tmpfs")


@dataclass
class Group:
    """Processes of one instance, by the mappings they have."""

    members: dict[Mappings, list[Process]] = field(default_factory=dict)
    unreadable: bool = False
    _leader: Process | None = None

    @property
    def processes(self) -> list[Process]:
        return [process for same in self.members.values() for process in same]

    @property
    def leader(self) -> Process:
        """The process the others come from."""
        if self._leader is None:
            self._leader = databases.leader(self.processes)
        return self._leader

    def add(self, mappings: Mappings, members: Iterable[Process]) -> None:
        self.members.setdefault(mappings, []).extend(members)
        self._leader = None


class Grouping:
    """One pass over the processes, put into groups.

    `known` are mappings of an earlier pass, by processes that have not run since; what is read is added.
    """

    def __init__(
        self, seen: Pass, threshold_bytes: int, known: dict[Process, Mappings] | None = None
    ) -> None:
        self._seen = seen
        self._threshold_bytes = threshold_bytes
        self._reader = segments.Reader()
        self._devices = segments.Devices()
        self._mappings: dict[Process, Mappings] = {} if known is None else known
        self._kinds: dict[Mapping, Kind] = {}
        self._unreadable: list[Process] = []
        self.shared_tables: set[Identity] = set()
        """The regions of a kernel that somebody has mapped."""
        self.missing: list[Missing] = []
        self.vanished = 0

    def kind(self, mapping: Mapping, pid: int) -> Kind:
        kind = self._kinds.get(mapping)
        if kind is None:
            kind = self._kinds[mapping] = segments.kind(mapping, self._devices.of(mapping, pid))
        return kind

    def groups(self) -> list[Group]:
        """Every instance there is; in none of two groups is the same process."""
        large, small = self._wanted()
        readable = [process for process in large if self._readable(process)]
        mappings = self._mappings
        attached = [process for process in readable if mappings[process]]
        # New children and idle parents of these processes, which are clients just as much.
        attached += [
            process for process in _related(small, attached) if self._readable(process) and mappings[process]
        ]
        united = self._without_common_files(self._united(attached))
        return united + self._without_memory(readable) + self._unknown()

    def _wanted(self) -> tuple[list[Process], list[Process]]:
        """Whose mappings are read first, and who is too small for that on its own."""
        large: list[Process] = []
        small: list[Process] = []
        for process in self._seen.processes:
            wanted = process.vm_pte_bytes >= self._threshold_bytes or databases.suspected(process.name)
            (large if wanted else small).append(process)
        if not self._matters(small):
            # Nor does any family of them.
            return large, small
        rest: list[Process] = []
        for family in _families(small):
            (large if self._matters(family) else rest).extend(family)
        return large, rest

    def _matters(self, family: list[Process]) -> bool:
        least_bytes = max(MATTERS_BYTES, self._threshold_bytes)
        return sum(process.vm_pte_bytes for process in family) >= least_bytes

    def _readable(self, process: Process) -> bool:
        """Read a process's mappings; whether they could be read."""
        if process in self._mappings:
            return True
        try:
            self._mappings[process] = self._reader.shared(process)
        except (Vanished, ProcessLookupError):
            self.vanished += 1
            return False
        except PermissionError:
            self.missing.append(missing(process.pid, "maps"))
            self._unreadable.append(process)
            return False
        return True

    def _united(self, attached: list[Process]) -> list[Group]:
        # By the tuples themselves, of which there are few: to hash each process's anew takes longer.
        tuples: dict[int, list[Process]] = {}
        for process in attached:
            tuples.setdefault(id(self._mappings[process]), []).append(process)
        same: dict[Mappings, list[Process]] = {}
        for members in tuples.values():
            same.setdefault(self._mappings[members[0]], []).extend(members)
        parents = {process.parent for process in attached}
        union = _Union()
        for mappings, members in same.items():
            own = self._own(mappings, members[0].pid)
            if own and not _any_tree(members):
                union.add(own, mappings, members)
                continue
            for together in _siblings(members, parents):
                union.add([*own, *_descent(together[0], bool(own))], mappings, together)
        return [part for group in union.groups for same in _servers(group) for part in self._programs(same)]

    def _programs(self, group: Group) -> list[Group]:
        """The group, or one per program where unrelated ones map the same memory.

        A switch has the memory of each of its guests mapped, and makes them no single server.
        """
        executables: dict[str, str | None] = {}
        for process in group.processes:
            if process.name not in executables:
                executables[process.name] = process.executable
        if len(set(executables.values())) < 2:
            return [group]
        union = _Union()
        for mappings, members in group.members.items():
            own = self._own(mappings, members[0].pid)
            for process in members:
                keys: list[Hashable] = [(identity, executables[process.name]) for identity in own]
                # Programs of one family are one server, like those that a SAP instance is made of.
                keys.append(("family", process.pid))
                if process.parent > 1:
                    keys.append(("family", process.parent))
                union.add(keys, mappings, [process])
        return union.groups

    def _own(self, mappings: Mappings, pid: int) -> set[Identity]:
        """The segments that strangers cannot have."""
        kinds = {mapping.identity: self.kind(mapping, pid) for mapping in mappings}
        self.shared_tables |= {identity for identity, kind in kinds.items() if kind.shares_tables}
        return {identity for identity, kind in kinds.items() if kind.kind not in _OF_FILES}

    def _without_common_files(self, groups: list[Group]) -> list[Group]:
        """Files that several programs map are nobody's memory: nothing is sized or planned for them."""
        users: dict[Identity, set[object]] = {}
        for number, group in enumerate(groups):
            executable = group.leader.executable if any(group.members) else None
            for mappings, members in group.members.items():
                for mapping in mappings:
                    if self.kind(mapping, members[0].pid).kind in _OF_FILES:
                        users.setdefault(mapping.identity, set()).add((number, executable))
        common = {identity for identity, who in users.items() if len(who) > 1}
        if not common:
            return groups
        kept = [_without(group, common) for group in groups]
        # Who had nothing else is a program like any other: it has a row where it matters.
        return [group for group in kept if any(group.members) or self._matters(group.processes)]

    def _without_memory(self, readable: list[Process]) -> list[Group]:
        """Programs that share no memory, where they pay enough to matter."""
        bare = [process for process in readable if not self._mappings[process]]
        return [Group({(): family}) for family in _families(bare) if self._matters(family)]

    def _unknown(self) -> list[Group]:
        """Whose mappings may not be read: by name, user and cgroup, so that VmPTE is still there."""
        same: dict[object, list[Process]] = {}
        for process in self._unreadable:
            key = (databases.family(process), process.uid, process.cgroup())
            same.setdefault(key, []).append(process)
        return [Group({(): members}, unreadable=True) for members in same.values()]


def _related(small: list[Process], attached: list[Process]) -> list[Process]:
    """Who has the name of a process that is attached, and is its sibling, child or parent."""
    names = {process.name for process in attached}
    namesakes = [process for process in small if process.name in names]
    above = {process.parent for process in namesakes}
    own = {process.pid for process in namesakes}
    siblings = {(process.name, process.parent) for process in attached if process.parent in above}
    children = {(process.name, process.pid) for process in attached if process.pid in above}
    parents = {process.parent for process in attached if process.parent in own}
    families = siblings | children
    return [
        process
        for process in namesakes
        if (process.name, process.parent) in families or process.pid in parents
    ]


def _any_tree(members: list[Process]) -> bool:
    return any(databases.is_tree(name) for name in {process.name for process in members})


def _siblings(members: list[Process], parents: set[int]) -> Iterable[list[Process]]:
    """Who has the same name, parent and no children: such processes are together whatever else is."""
    families: dict[Hashable, list[Process]] = {}
    for process in members:
        alone = process.parent <= 1 or process.pid in parents
        families.setdefault(process.pid if alone else (process.name, process.parent), []).append(process)
    return families.values()


def _descent(process: Process, has_own: bool) -> Iterator[Hashable]:
    """What a process has in common with its parent and children of the same name, if that makes a server."""
    if has_own and not databases.is_tree(process.name):
        return
    yield process.name, process.pid
    if process.parent > 1:
        yield process.name, process.parent


def _families(members: list[Process]) -> list[list[Process]]:
    """By descent, or by user and cgroup where the parent is the first process."""
    union = _Union()
    orphans = Counter([(process.name, process.uid) for process in members if process.parent <= 1])
    for together in _siblings(members, {process.parent for process in members}):
        first = together[0]
        keys: list[Hashable] = list(_descent(first, False))
        if first.parent <= 1 and orphans[first.name, first.uid] > 1:
            keys.append((first.name, first.uid, first.cgroup()))
        union.add(keys, (), together)
    return [group.processes for group in union.groups]


class _Union:
    """Groups that grow together as soon as they have a key in common."""

    def __init__(self) -> None:
        self._of_key: dict[Hashable, int] = {}
        self._by_number: dict[int, tuple[set[Hashable], Group]] = {}

    @property
    def groups(self) -> list[Group]:
        return [group for __, group in self._by_number.values()]

    def add(self, keys: Iterable[Hashable], mappings: Mappings, members: list[Process]) -> None:
        wanted = set(keys)
        numbers = sorted({self._of_key[key] for key in wanted if key in self._of_key})
        if numbers:
            number = numbers[0]
        else:
            number = members[0].pid
            self._by_number[number] = (set(), Group())
        of_group, group = self._by_number[number]
        for other in numbers[1:]:
            more, joined = self._by_number.pop(other)
            wanted |= more
            for same, processes in joined.members.items():
                group.add(same, processes)
        group.add(mappings, members)
        of_group |= wanted
        for key in wanted:
            self._of_key[key] = number


def _servers(group: Group) -> list[Group]:
    """The group, or one per data directory where several servers map the same segment."""
    members = {process.pid: process for process in group.processes if databases.is_tree(process.name)}
    roots = [process for process in members.values() if process.parent not in members]
    if len(roots) < 2:
        return [group]
    directories = {process.pid: _directory(process) for process in roots}
    if len(set(filter(None, directories.values()))) < 2:
        return [group]
    parts: dict[str, Group] = {}
    rest = next(filter(None, directories.values()))
    for mappings, processes in group.members.items():
        for process in processes:
            directory = directories.get(_root(process, members)) or rest
            parts.setdefault(directory, Group()).add(mappings, [process])
    return list(parts.values())


def _root(process: Process, members: dict[int, Process]) -> int:
    while process.parent in members:
        process = members[process.parent]
    return process.pid


def _directory(process: Process) -> str | None:
    try:
        directory = databases.data_directory(process)
    except PermissionError:
        return None
    # The same path in two containers is not the same directory.
    return None if directory is None else f"{process.namespace('mnt')} {directory}"


def _without(group: Group, common: set[Identity]) -> Group:
    kept = Group(unreadable=group.unreadable)
    for mappings, members in group.members.items():
        kept.add(tuple(mapping for mapping in mappings if mapping.identity not in common), members)
    return kept
