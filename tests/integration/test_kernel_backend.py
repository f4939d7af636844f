# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel backend, down to the bytes of its ioctls, over a FUSE file system that answers as msharefs.

What FUSE cannot do as a kernel does is in tests/rig/README.md; the cases it cannot play are named here.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.actors import ADDRESS, ANONYMOUS, READ_WRITE, Stage, stage
from conformance.cases import CASES, GIB, MIB, WINDOW, Case, Scene, refused
from mshare.backends import root
from mshare.kernel import abi
from mshare.kernel.generations import GENERATIONS
from rig.mount import NEEDS, Mount, can_mount_fuse

pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)

NO_FD = 0xFFFFFFFF
NOT_SHARED = "FUSE has no say in what mmap and page faults answer"
PLAYED_TOPICS = ("file", "directory", "size", "mapping", "file inside", "unlink", "death")
NOT_PLAYED = {
    "a new region has no size and the mode that was asked for": "st_size is always large",
    "O_TRUNC on a fresh file uses up the one time the size can be set": NOT_SHARED,
    "0 is accepted once, and bricks the region": NOT_SHARED,
    "fresh memory is zeroes": "2022-06: what read() gives lies over the start of the memory",
    "attaching before it is set: EINVAL": NOT_SHARED,
    "readable only: a load works, a store is SIGSEGV": NOT_SHARED,
    "read-only: a store is SIGSEGV": NOT_SHARED,
    "twice attached, twice dead: both windows are SIGSEGV": NOT_SHARED,
    "attaching the file: EINVAL, before and after mapping something": NOT_SHARED,
    "created by a thread that ended: attaching is EINVAL for ever": NOT_SHARED,
    "huge pages are real ones and shared": "it has no huge pages",
    "huge pages that others reserved, though untouched: ENOMEM": "it has no huge pages",
    "stores reach the file and everybody": "a store reaches the file when the cache is written back",
    "persistent memory: 64 files of 4 GiB, mapped once, seen by 8 processes": "likewise",
}


class Rig:
    """A FUSE msharefs in a mount namespace of its own, and people to work on it."""

    def __init__(self, directory: Path, generation: str) -> None:
        self.mount = Mount(directory, generation, "--alignment", str(WINDOW))
        self.generation = generation

    def scene(self, people: Stage, directory: Path) -> Scene:
        features = GENERATIONS[self.generation].features
        return Scene("kernel", self.mount.root, features, WINDOW, people, directory)

    def requests(self, operation: str) -> list[dict]:
        """What was asked about the region r; the probe's scratch file has another name."""
        return [record for record in self.mount.requests(operation) if record.get("path") == "/r"]


@pytest.fixture
def people() -> Iterator[Stage]:
    with stage(signal.SIGBUS) as made:
        yield made


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.mount.stop()
    assert made.mount.forced_pages() == []


every_generation = pytest.mark.parametrize("rig", GENERATIONS, indirect=True)


@every_generation
def test_the_probe_finds_each_generation_and_leaves_nothing(rig: Rig, people: Stage) -> None:
    actor = people.actor("kernel", rig.mount.root)
    assert actor.generation() == rig.generation
    assert os.listdir(rig.mount.root) == ["mshare_info"]
    numbers = [record["number"] for record in rig.mount.requests("ioctl")]
    assert "0x40107801" not in numbers, "it is UNMAP to one kernel and SET_SIZE to another"


def create(start: int, size: int, flags: int) -> bytes:
    return struct.pack("<QQQIII4x", start, size, 0, READ_WRITE, flags, NO_FD)


HUGE = ANONYMOUS | abi.MAP_NORESERVE
BY_ADDRESS = [
    ("0x40107801", struct.pack("<QQ", ADDRESS, WINDOW)),
    ("0x40287802", create(ADDRESS + GIB, 300 * GIB, HUGE)),
]
BY_OFFSET = [
    ("0x40287800", create(GIB, 300 * GIB, HUGE)),
    ("0x40107801", struct.pack("<QQ", GIB, 300 * GIB)),
]
IOCTLS = {
    "2022-06": [],
    "2024-09": BY_ADDRESS,
    "2025-01": [*BY_ADDRESS, ("0x40107803", struct.pack("<QQ", ADDRESS + GIB, 300 * GIB))],
    "2025-04": BY_OFFSET,
    "2025-08": BY_OFFSET,
}


@every_generation
def test_the_exact_bytes_of_size_mapping_and_unmapping(rig: Rig, people: Stage, tmp_path: Path) -> None:
    scene = rig.scene(people, tmp_path)
    owner = scene.sized()
    if scene.features.explicit_mappings:
        owner.map(offset=GIB, size=300 * GIB, flags=HUGE)
    if scene.features.unmap:
        owner.unmap(GIB, 300 * GIB)
    ioctls = [record for record in rig.requests("ioctl") if record["command"] != "GET_SIZE"]
    assert [(record["number"], bytes.fromhex(record["bytes"])) for record in ioctls] == IOCTLS[rig.generation]
    assert all(record["errno"] == 0 for record in ioctls)
    truncated = [record["size"] for record in rig.requests("truncate")]
    assert truncated == ([WINDOW] if scene.features.size_set_by == "ftruncate" else [])


@pytest.mark.parametrize("rig", ["2022-06"], indirect=True)
def test_the_first_mmap_sets_address_and_size(rig: Rig, people: Stage, tmp_path: Path) -> None:
    owner = rig.scene(people, tmp_path).sized()
    (record,) = rig.mount.requests("first_mmap")
    assert (record["start"], record["size"]) == (ADDRESS, WINDOW)
    assert owner.geometry() == (ADDRESS, WINDOW)
    assert not owner.is_mapped(ADDRESS), "setting the size is not attaching"


@pytest.mark.parametrize("rig", ["2025-08"], indirect=True)
def test_a_files_descriptor_protection_and_offset_arrive(rig: Rig, people: Stage, tmp_path: Path) -> None:
    scene = rig.scene(people, tmp_path)
    owner = scene.sized()
    owner.map_file(
        scene.file(), offset=GIB, size=MIB, prot=abi.PROT_READ, access=os.O_RDONLY, file_offset=4096
    )
    (record,) = rig.requests("ioctl")
    fields = record["fields"]
    assert 0 <= fields.pop("fd") < 1024
    assert fields == {"region_offset": GIB, "size": MIB, "offset": 4096, "prot": 1, "flags": 0x11}


@pytest.mark.parametrize("rig", ["2025-08"], indirect=True)
def test_the_errno_is_the_one_that_msharefs_gave(rig: Rig, people: Stage, tmp_path: Path) -> None:
    owner = rig.scene(people, tmp_path).sized()
    owner.map()
    for code, options in (
        (errno.EEXIST, {"flags": ANONYMOUS | abi.MAP_FIXED_NOREPLACE}),
        (errno.EINVAL, {"offset": 100}),
        (errno.EBADF, {"flags": abi.MAP_SHARED | abi.MAP_FIXED}),
        (errno.ENOMEM, {"size": 500 * GIB}),
    ):
        with refused(code):
            owner.map(**options)
        assert rig.requests("ioctl")[-1]["errno"] == errno.errorcode[code]


@pytest.mark.parametrize("rig", ["2025-08"], indirect=True)
def test_a_window_is_left_out_of_core_files(rig: Rig, people: Stage, tmp_path: Path) -> None:
    """A core file reads pages that are not present, at which the kernel warns."""
    owner = rig.scene(people, tmp_path).sized()
    owner.attach(address=ADDRESS)
    smaps = Path(f"/proc/{owner.pid}/smaps").read_text()
    flags = smaps[smaps.index(f"{ADDRESS:x}-") :].split("VmFlags:")[1].split("\n")[0]
    assert "dd" in flags.split()


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Rig]]:
    """One mount of each generation for all cases."""
    made = {generation: Rig(tmp_path_factory.mktemp("rig"), generation) for generation in GENERATIONS}
    yield made
    for each in made.values():
        each.mount.stop()
    assert [page for each in made.values() for page in each.mount.forced_pages()] == []


@pytest.mark.parametrize(
    ("generation", "case"),
    [
        pytest.param(generation, case, id=f"{generation}-{case.id}")
        for generation, known in GENERATIONS.items()
        for case in CASES
        if case.topic in PLAYED_TOPICS
        and case.says not in NOT_PLAYED
        and case.not_applicable(known.features) is None
    ],
)
def test_cases_of_the_conformance_suite(
    rigs: dict[str, Rig], generation: str, case: Case, people: Stage, tmp_path: Path
) -> None:
    scene = rigs[generation].scene(people, tmp_path)
    try:
        case.play(scene)
    finally:
        for name in {*root.names(scene.root)} - {abi.INFO_FILE}:
            os.unlink(os.path.join(scene.root, name))
        for name in reversed(root.directories(scene.root)):
            os.rmdir(os.path.join(scene.root, name))


def test_every_case_that_is_not_played_exists() -> None:
    assert set(NOT_PLAYED) <= {case.says for case in CASES}
