# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator's book-keeping: ranges, records and the files on disk."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.backends.mapping import Mapping, subtract
from mshare.backends.simulated.layout import Layout, Placed, Record, Task, sidecar_mode, without
from mshare.errors import Unavailable
from mshare.host import procfs
from rig import apart

ranges = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def covered(pieces: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in pieces for number in range(start, end)}


@given(ranges, st.lists(ranges, max_size=4))
def test_subtract_leaves_what_no_part_covers(whole, parts):
    left = subtract(whole, parts)
    assert covered(left) == covered([whole]) - covered(parts)
    assert all(start < end for start, end in left)
    assert sum(end - start for start, end in left) == len(covered(left)), "no piece twice"


@st.composite
def placed_apart(draw: st.DrawFn) -> list[Placed]:
    """Mappings that do not overlap, of every kind."""
    placed, offset = [], 0
    for serial in range(draw(st.integers(0, 4))):
        offset += draw(st.integers(0, 3))
        size = draw(st.integers(1, 5))
        kind = draw(st.sampled_from(["anonymous", "hugetlb", "file"]))
        inside = 0 if kind == "anonymous" else draw(st.integers(0, 5))
        placed.append(Placed(Mapping(offset, size, kind, object_offset=inside), serial))
        offset += size
    return placed


def shown(placed: list[Placed]) -> dict[int, tuple[int, int]]:
    """For each position, which object lies there, and which position of the object."""
    found: dict[int, tuple[int, int]] = {}
    for entry in placed:
        mapping = entry.mapping
        for position in range(mapping.offset, mapping.end):
            assert position not in found, "two objects at one place"
            # Anonymous memory lies in the region's file, at the region's own offset.
            inside = (
                position if mapping.kind == "anonymous" else mapping.object_offset + position - mapping.offset
            )
            found[position] = (entry.serial, inside)
    return found


@given(placed_apart(), ranges)
def test_without_cuts_a_range_and_moves_nothing(placed, cut):
    before, after = shown(placed), shown(without(placed, *cut))
    assert after == {position: what for position, what in before.items() if not cut[0] <= position < cut[1]}


@given(placed_apart(), st.booleans())
def test_a_record_survives_its_file(placed, owned):
    owner = Task(1, 2, 3) if owned else None
    record = Record(7, owner, True, 1 << 39, 2 << 40 if owned else None, 5, placed)
    assert Record.from_json(record.to_json()) == record
    assert "\n" not in record.to_json()


def test_a_region_is_dead_when_its_very_owner_is_gone():
    pid, ticks = os.getpid(), procfs.start_ticks(os.getpid())
    assert not Record(1, Task(pid, pid, ticks)).dead
    assert Record(1, Task(pid, pid, ticks - 1)).dead, "the pid was used again"
    assert Record(1, Task(pid, 2**22 + 1, ticks)).dead, "the thread ended"
    assert not Record(1, None).dead


@pytest.mark.parametrize(
    ("mode", "sidecar"), [(0o600, 0o600), (0o660, 0o660), (0o640, 0o660), (0o444, 0o666)]
)
def test_who_may_open_a_region_may_change_its_sidecar(mode, sidecar):
    assert sidecar_mode(mode) == sidecar


@pytest.fixture
def layout(tmp_path):
    return Layout.create(str(tmp_path), "2025-08")


@pytest.fixture
def sidecar(layout):
    made = layout.create_sidecar("r", Record(1, None), 0o600)
    yield made
    made.close()


def test_a_change_is_written_and_outlives_the_name(layout, sidecar):
    layout.unlink("r")
    assert os.listdir(os.path.dirname(layout.sidecar_path("r"))) == ["layout.json"]
    with sidecar.change() as change:
        change.record = Record(1, None, window_bytes=5)
    assert sidecar.read().window_bytes == 5


def test_a_change_that_fails_is_not_written(sidecar):
    with pytest.raises(ZeroDivisionError), sidecar.change() as change:
        change.record = Record(1, None, window_bytes=1 // 0)
    assert sidecar.read() == Record(1, None)


def test_rests_of_a_longer_record_are_not_read(sidecar):
    short = Record(1, None).to_json().encode() + b"\n"
    os.pwrite(sidecar.fd, short + b'"rest of a longer one"}\n', 0)
    assert sidecar.read() == Record(1, None)


def test_a_child_forked_inside_a_change_keeps_no_lock(sidecar):
    """The parent ends its change; the child, which inherited the locked file, must not stop others."""
    to_child, child = os.pipe(), 0
    with sidecar.change():
        child = apart.fork()
        if child == 0:
            os.close(to_child[1])
            os.read(to_child[0], 1)
            os._exit(0)
    reader = apart.fork()
    if reader == 0:
        with sidecar.change() as change:
            change.record = Record(1, None, window_bytes=9)
        os._exit(0)
    assert os.waitpid(reader, 0)[1] == 0
    assert sidecar.read().window_bytes == 9
    for end in to_child:
        os.close(end)
    os.waitpid(child, 0)


def test_a_new_layout(layout, tmp_path):
    assert (tmp_path / "mshare_info").read_text() == "549755813888\n"
    assert stat.S_IMODE((tmp_path / "mshare_info").stat().st_mode) == 0o444
    assert Layout.present(str(tmp_path))
    assert Layout.read(str(tmp_path)) == layout
    assert layout.names() == []
    assert layout.record("none") is None


def test_a_layout_is_not_made_twice(layout):
    with pytest.raises(FileExistsError):
        Layout.create(layout.root, "2025-08")


def test_access_goes_for_root_and_sidecars(layout, tmp_path):
    layout.set_access(0o1770)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path, tmp_path / ".simulated")] == [0o1770] * 2


def test_removing_a_layout(layout, tmp_path):
    (tmp_path / "r").touch()
    with pytest.raises(OSError, match="not empty") as caught:
        layout.remove()
    assert caught.value.errno == errno.ENOTEMPTY
    (tmp_path / "r").unlink()
    layout.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("root", ["{}", "{}/none", "/etc/passwd"])
def test_no_layout(root, tmp_path):
    root = root.format(tmp_path)
    assert not Layout.present(root)
    with pytest.raises(Unavailable) as caught:
        Layout.read(root)
    assert str(caught.value) == (
        f"{root} holds no simulated msharefs; create one with `mshare mount --backend simulated --root"
        f" {root}` or the module dbmem.mshare.mshare_mount"
    )


def test_a_layout_of_another_version(layout, tmp_path):
    path = tmp_path / ".simulated" / "layout.json"
    os.chmod(path, 0o644)
    path.write_text(json.dumps({"version": 99, "generation": "2025-08", "alignment_bytes": 1}))
    with pytest.raises(
        Unavailable, match="was laid out by version 99 of the simulator, but this is version 1"
    ):
        Layout.read(str(tmp_path))
