# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload's store "kernel", down to the bytes of its ioctls, over the FUSE msharefs."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.kernel import abi
from mshare.preload.settings import Settings
from rig import shapes, sharing
from rig.mount import NEEDS, Mount, can_mount_fuse
from rig.patience import HANG_SECONDS
from rig.sharing import MIB, SIZE_BYTES

pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)

PROGRAM = [sys.executable, str(Path(sharing.__file__))]
WINDOW = 1 << 30
NO_FD = 0xFFFFFFFF
READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
ANONYMOUS = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS


@pytest.fixture
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path, request.param, "--alignment", str(WINDOW))
    yield made
    made.stop()
    assert made.forced_pages() == []


def played(*generations: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mount", generations, indirect=True)


def run(
    library: str, mount: Mount, step: str, pages: str = "4k", **settings: object
) -> tuple[list, list[str]]:
    environment = Settings(pages, "kernel", mount.root, **settings).environment(library)
    done = subprocess.run(
        [*PROGRAM, step],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()


def of_regions(mount: Mount, operation: str) -> list[dict]:
    """What was asked about regions; the probe's scratch file has another name."""
    return [record for record in mount.requests(operation) if record.get("path", "").startswith("/preload.")]


@played("2025-04", "2025-08")
def test_a_segment_is_a_region(library: str, mount: Mount) -> None:
    answers, lines = run(library, mount, "anonymous")
    assert lines == []
    for looked in (answers[0], answers[3]):
        assert looked["fresh"]
        assert (looked["child"]["seen"], looked["written"]) == (7, 9)
        assert looked["size"] == WINDOW, "the whole window is attached"
    assert [answers[2], answers[5]] == [{"left": False}] * 2, "the whole window is unmapped"
    assert answers[1] != answers[4], "the second segment has a region of its own"
    assert [record["size"] for record in of_regions(mount, "truncate")] == [WINDOW] * 2
    wanted = struct.pack("<QQQIII4x", 0, SIZE_BYTES, 0, READ_WRITE, ANONYMOUS, NO_FD)
    asked = of_regions(mount, "ioctl")
    assert [(record["number"], bytes.fromhex(record["bytes"])) for record in asked] == [
        ("0x40287800", wanted)
    ] * 2
    assert os.listdir(mount.root) == ["mshare_info"]


@played("2025-04", "2025-08")
def test_unmap_is_never_sent_before_the_generation_is_known(library: str, mount: Mount) -> None:
    run(library, mount, "refused")
    assert "0x40107801" not in [record["number"] for record in mount.requests("ioctl")]


@played("2022-06", "2024-09", "2025-01")
def test_older_generations_are_left_alone(library: str, mount: Mount) -> None:
    answers, (line,) = run(library, mount, "refused")
    assert answers == ["ok"]
    assert "speaks neither generation 2025-04 nor 2025-08" in line
    assert of_regions(mount, "ioctl") == []
    assert os.listdir(mount.root) == ["mshare_info"]


@played("2025-08")
def test_huge_pages_are_asked_for(library: str, mount: Mount) -> None:
    answers, lines = run(library, mount, "refused", "hugetlb")
    (record,) = of_regions(mount, "ioctl")
    assert record["fields"]["flags"] == ANONYMOUS | abi.MAP_HUGETLB
    assert record["fields"]["size"] == SIZE_BYTES
    assert (answers, lines) == (["ok"], []) if record["errno"] == 0 else (["ok"], lines)


@played("2025-04")
def test_a_generation_without_huge_pages(library: str, mount: Mount) -> None:
    answers, (line,) = run(library, mount, "refused", "hugetlb")
    assert answers == ["ok"]
    assert "huge pages need generation 2025-08 and a large enough vm.nr_hugepages; left to the kernel" in line
    assert os.listdir(mount.root) == ["mshare_info"], "what failed half-way is unlinked"


@played("2025-08")
def test_segments_in_an_existing_region(library: str, mount: Mount) -> None:
    fd = mount.create("sga")
    os.ftruncate(fd, WINDOW)
    answers, (line,) = run(library, mount, "several", region="sga", region_bytes=SIZE_BYTES)
    assert [first for first, __ in answers[0]] == [1, 2, 3]
    assert "0 B are left of the 64 MiB in region sga; make it larger" in line
    asked = [record for record in mount.requests("ioctl") if record.get("path") == "/sga"]
    half = SIZE_BYTES // 2
    assert [
        (record["command"], record["fields"]["region_offset"], record["fields"]["size"]) for record in asked
    ] == [
        ("UNMAP", 0, SIZE_BYTES),
        ("CREATE_MAPPING", 0, half),
        ("CREATE_MAPPING", half, half),
    ]
    os.close(fd)


@played("2025-08")
def test_a_thread_cannot_own_a_region(library: str, mount: Mount) -> None:
    __, (line,) = run(library, mount, "from_a_thread")
    assert "a region would die with that thread" in line
    assert of_regions(mount, "create") == []


@played("2025-04")
def test_a_thread_may_where_regions_have_no_owner(library: str, mount: Mount) -> None:
    answers, lines = run(library, mount, "from_a_thread")
    assert "/preload." in answers[0]
    assert lines == []


@played("2025-08")
def test_sysv(library: str, mount: Mount) -> None:
    answers, __ = run(library, mount, "sysv")
    assert answers[0]["segment_size"] == SIZE_BYTES - 100
    assert ".sysv." in answers[0]["file"]
    assert answers[1] == {"seen": 7, "attached": 2, "detached": "ok", "then": 1, "written": 9}
    assert os.listdir(mount.root) == ["mshare_info"]


def small_program(library: str, mount: Mount, kind: str, step: str) -> tuple[shapes.Result, list[str]]:
    settings = Settings("4k", "kernel", mount.root, threshold_bytes=shapes.THRESHOLD_BYTES)
    return shapes.run(shapes.Shape(kind, step), settings.environment(library))


@played("2025-08")
def test_a_window_cannot_be_read_only(library: str, mount: Mount) -> None:
    """The kernel lets everybody write who has one, whatever was asked."""
    for kind in ("sysv", "posix"):
        found, (line,) = small_program(library, mount, kind, "read_only")
        assert "again EACCES" in found.output
        assert "where the kernel cannot protect it from this program; refused" in line


@played("2025-04", "2025-08")
def test_everybody_has_the_same_memory(library: str, mount: Mount) -> None:
    for kind in ("sysv", "posix"):
        for step in ("again", "let_go_and_again", "child_attaches", "other_program"):
            found, lines = small_program(library, mount, kind, step)
            assert found == shapes.run(shapes.Shape(kind, step))[0]
            assert lines == []


def test_sizes_of_the_program_and_the_rig_fit() -> None:
    assert SIZE_BYTES < WINDOW
    assert SIZE_BYTES % (2 * MIB) == 0
