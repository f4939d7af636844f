# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes are put together, by mappings that a test makes up: real processes are in test_groups."""

from __future__ import annotations

import pytest

from mshare.host.processes import Pass, Process, Vanished
from mshare.host.segments import Kind, Mapping, Mappings
from mshare.survey import groups
from mshare.survey.groups import MATTERS_BYTES, Group, Grouping
from mshare.units import GIB, KIB, MIB


def mapping(inode: int, path: bytes = b"/dev/zero") -> Mapping:
    return Mapping(GIB, 2 * GIB, 0, True, b"00:01", inode, path)


def process(pid: int, parent: int = 1, name: str = "server", tables_bytes: int = MIB) -> Process:
    status = f"Name:\t{name}\nUid:\t0\t0\t0\t0\nPPid:\t{parent}\n"
    return Process(pid, status.encode(), tables_bytes)


class Host:
    """Processes with what they have mapped, and what each mapping is called."""

    def __init__(
        self, mappings: dict[int, Mappings | Exception], kinds: dict[int, str] | None = None
    ) -> None:
        self.mappings = mappings
        self.kinds = kinds or {}
        self.reads = 0

    def shared(self, process: Process) -> Mappings:
        self.reads += 1
        found = self.mappings[process.pid]
        if isinstance(found, Exception):
            raise found
        return found

    def kind(self, mapping: Mapping) -> Kind:
        kind = self.kinds.get(mapping.inode, "anonymous")
        return Kind(kind, f"inode {mapping.inode}", None, 4096, kind == "msharefs")

    def grouping(
        self, monkeypatch: pytest.MonkeyPatch, processes: list[Process], threshold_bytes: int = KIB
    ) -> Grouping:
        made = Grouping(seen(processes), threshold_bytes)
        monkeypatch.setattr(made, "_reader", self)
        monkeypatch.setattr(groups.segments, "kind", lambda mapping, device: self.kind(mapping))
        monkeypatch.setattr(made._devices, "of", lambda mapping, pid: None)
        return made


def seen(processes: list[Process]) -> Pass:
    made = Pass()
    made.processes.extend(processes)
    return made


def pids(found: list[Group]) -> list[list[int]]:
    return sorted(sorted(each.pid for each in group.processes) for group in found)


def test_a_segment_that_only_a_servers_processes_can_have_makes_them_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = (mapping(1),)
    host = Host(dict.fromkeys((10, 11, 12), common))
    processes = [process(10), process(11, 10), process(12, 10)]
    (group,) = host.grouping(monkeypatch, processes).groups()
    assert pids([group]) == [[10, 11, 12]]
    assert group.leader.pid == 10


def test_two_servers_with_segments_of_their_own_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({10: (mapping(1),), 11: (mapping(1),), 20: (mapping(2),), 21: (mapping(2),)})
    processes = [process(10), process(11, 10), process(20), process(21, 20)]
    assert pids(host.grouping(monkeypatch, processes).groups()) == [[10, 11], [20, 21]]


def test_a_segment_joins_groups_that_others_had_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({10: (mapping(1),), 20: (mapping(2),), 30: (mapping(1), mapping(2))})
    processes = [process(10), process(20), process(30)]
    assert pids(host.grouping(monkeypatch, processes).groups()) == [[10, 20, 30]]


def test_a_file_that_strangers_map_makes_nobody_one(monkeypatch: pytest.MonkeyPatch) -> None:
    font = mapping(9, b"/usr/share/font")
    host = Host({10: (mapping(1), font), 20: (mapping(2), font), 30: (font,)}, {9: "file"})
    processes = [process(10, name="editor"), process(20, name="browser"), process(30, name="clock")]
    found = host.grouping(monkeypatch, processes).groups()
    assert pids(found) == [[10], [20]], "who has nothing else is no instance"
    kept = [mappings for group in found for mappings in group.members]
    assert sorted(kept) == [(mapping(1),), (mapping(2),)], "nothing is planned for the file"


def test_a_region_is_remembered_as_one_with_shared_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({10: (mapping(1), mapping(2))}, {1: "msharefs"})
    made = host.grouping(monkeypatch, [process(10)])
    made.groups()
    assert made.shared_tables == {mapping(1).identity}


def test_what_may_not_be_read_is_one_group_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({10: PermissionError(), 11: PermissionError()})
    made = host.grouping(monkeypatch, [process(10), process(11, 10)])
    found = made.groups()
    assert all(group.unreadable for group in found)
    assert sorted(pid for group in pids(found) for pid in group) == [10, 11]
    assert [entry.what for entry in made.missing] == ["maps", "maps"]


@pytest.mark.parametrize("gone", [Vanished(), ProcessLookupError()])
def test_one_that_ended_is_counted(monkeypatch: pytest.MonkeyPatch, gone: Exception) -> None:
    made = Host({10: gone}).grouping(monkeypatch, [process(10)])
    assert made.groups() == []
    assert (made.vanished, made.missing) == (1, [])


def test_small_processes_of_no_family_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({})
    assert host.grouping(monkeypatch, [process(10, tables_bytes=KIB)], MIB).groups() == []
    assert host.reads == 0


def test_small_processes_that_matter_together_are(monkeypatch: pytest.MonkeyPatch) -> None:
    count = MATTERS_BYTES // (512 * KIB) + 1
    members = [process(100 + number, 99, "worker", 512 * KIB) for number in range(count)]
    host = Host({each.pid: () for each in members})
    (group,) = host.grouping(monkeypatch, members, MIB).groups()
    assert len(group.processes) == count


def test_a_database_is_read_however_small_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host({10: (mapping(1),)})
    assert pids(host.grouping(monkeypatch, [process(10, name="postgres", tables_bytes=KIB)], GIB).groups())
    assert host.reads == 1
