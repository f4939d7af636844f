# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The day on which the described calls are posted: their numbers are in the table, and nothing else changes.

The kernel is a double in this process. It has the calls' arguments as they are guessed today, real memory
behind each descriptor, and a list of what it was asked.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

import pytest

from conformance.actors import crowd
from conformance.targets import Target
from mshare import paths
from mshare.backends import choose
from mshare.backends.called import CalledBackend
from mshare.backends.choose import Choice
from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.converge.outcome import Outcome
from mshare.info import inventory
from mshare.kernel import abi, probe, syscalls
from mshare.mount import msharefs
from mshare.mount.converge import result as mount_result
from mshare.region.region import Region, RegionStat
from mshare.units import GIB, MIB

WINDOW = 512 * GIB
SHARED_FIXED = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_FIXED_NOREPLACE


class Kernel:
    """Answers numbered calls. The numbers are none of any kernel's."""

    def __init__(self) -> None:
        self.numbers = {call: 10_000 + place for place, call in enumerate(abi.NUMBERED_CALLS)}
        self.asked: list[tuple[object, ...]] = []

    def syscall(self, number: ctypes.c_long, *words: ctypes.c_long) -> int:
        name = abi.NUMBERED_CALLS[number.value - 10_000]
        try:
            return int(getattr(self, name)(*(word.value for word in words)))
        except OSError as error:
            ctypes.set_errno(error.errno or 0)
            return -1

    def mshare_create(self, flags: int) -> int:
        if flags & ~os.O_CLOEXEC:
            raise OSError(errno.EINVAL, "")
        return os.memfd_create("kernel", os.MFD_CLOEXEC)

    def mshare_attach(self, fd: int, offset: int, size: int, address: int, flags: int) -> int:
        prot = abi.PROT_READ | abi.PROT_WRITE
        return syscalls.mmap(address or None, size, prot, flags, fd, offset)

    def mshare_map(self, fd: int, *words: int) -> int:
        self.asked.append(("mshare_map", *words))
        return 0

    def mshare_advise(self, fd: int, offset: int, size: int, advice: int) -> int:
        self.asked.append(("mshare_advise", offset, size, advice))
        syscalls.punch_hole(fd, offset, size)
        return 0

    def mshare_protect(self, fd: int, *words: int) -> int:
        self.asked.append(("mshare_protect", *words))
        return 0


@pytest.fixture
def root() -> Iterator[str]:
    with Target("2026-05", "simulated").mounted() as root:
        yield root


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    double = Kernel()
    monkeypatch.setattr(abi, "CALL_NUMBERS", double.numbers)
    monkeypatch.setattr(probe, "_libc", lambda: double)
    return double


def test_the_simulated_backend_plays_it_until_then(root: str) -> None:
    assert connect("auto", root).__class__ is SimulatedBackend


@pytest.mark.usefixtures("kernel")
def test_the_numbers_decide(root: str) -> None:
    backend = connect("auto", root)
    assert backend.__class__ is CalledBackend
    assert (backend.name, backend.generation.id) == ("kernel", "2026-05")
    # Who asks for the simulated backend gets it, as on every kernel.
    assert connect("simulated", root).__class__ is SimulatedBackend


def test_who_looks_calls_it_what_it_is(root: str, kernel: Kernel) -> None:
    """Facts, modules and the command line, which all ask here."""
    facts, support = inventory.mount_facts(root), inventory.support("auto", root)
    assert (facts.backend, facts.generation, facts.reason) == ("kernel", "2026-05", None)
    assert (support.backend, support.mounted, support.kernel_supported) == ("kernel", True, True)
    assert support.reasons == (
        f"{root} holds the names of regions, which this kernel makes by the calls of generation 2026-05",
    )
    assert inventory.support("kernel", root).backend == "kernel"
    asked = inventory.support("simulated", root)
    assert (asked.backend, asked.reasons) == ("simulated", (f"{root} holds a simulated msharefs",))
    kernel.numbers.clear()
    assert inventory.mount_facts(root).backend == inventory.support("auto", root).backend == "simulated"
    assert not inventory.support("auto", root).kernel_supported


@pytest.mark.usefixtures("kernel")
def test_what_is_mounted_is_called_what_its_regions_are(root: str) -> None:
    asked = Choice("simulated", root, "the simulated backend was requested")
    outcome = Outcome(False, [], {}, {}, inventory.mount_facts(root))
    answer = mount_result(asked, outcome)
    assert (answer["backend"], answer["root"]) == ("kernel", root)
    assert "by the calls of generation 2026-05" in str(answer["backend_reason"])
    # What was asked for is as it was asked for: it is laid out by this library.
    assert msharefs.observe(root).backend == "simulated"


@pytest.mark.usefixtures("kernel")
def test_at_the_usual_place_as_well(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "simulated_root", lambda: root)
    monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
    for backend, is_class in (
        ("auto", CalledBackend),
        ("kernel", CalledBackend),
        ("simulated", SimulatedBackend),
    ):
        assert connect(backend).__class__ is is_class
    assert inventory.support().backend == "kernel"


@pytest.mark.usefixtures("kernel")
def test_a_damaged_layout_is_nobody_s(root: str) -> None:
    with open(os.path.join(root, ".simulated", "layout.json"), "w") as file:
        file.write("{")
    facts = inventory.mount_facts(root)
    assert facts.backend == "simulated"
    assert "layout.json is not valid JSON" in (facts.reason or "")


@pytest.mark.usefixtures("kernel")
def test_of_the_older_generations_it_takes_none() -> None:
    with Target("2025-08", "simulated").mounted() as root:
        assert connect("auto", root).__class__ is SimulatedBackend


def test_create_attach_change_and_close(root: str, kernel: Kernel) -> None:
    def stat() -> RegionStat:
        with Region.open("sga", backend=connect("auto", root)) as region:
            return region.stat()

    def client(_number: int) -> None:
        with Region.open("sga", backend=connect("auto", root)) as region, region.attach() as attachment:
            assert bytes(attachment.view(0, 5)) == b"hello"
            attachment.view(MIB, 5)[:] = b"there"

    def owner(_number: int) -> None:
        with Region.create("sga", "4MiB", backend=connect("auto", root), overcommit=True) as region:
            with region.attach() as attachment:
                attachment.view(0, 5)[:] = b"hello"
                assert crowd(2, client) == [0, 0]
                assert bytes(attachment.view(MIB, 5)) == b"there"
                region.advise(MIB, MIB, "remove")
                assert bytes(attachment.view(MIB, 5)) == bytes(5)
            region.protect(0, "2MiB", "r")
            with pytest.raises(OSError, match="in generation 2026-05"):
                region.unmap(0, MIB)
            flags = SHARED_FIXED | abi.MAP_ANONYMOUS | abi.MAP_NORESERVE
            assert kernel.asked == [
                ("mshare_map", 0, 4 * MIB, 3, flags, -1, 0),
                ("mshare_advise", MIB, MIB, abi.MADV_REMOVE),
                ("mshare_protect", 0, 2 * MIB, abi.PROT_READ),
            ]
            facts = stat()
            assert (facts.backend, facts.generation, facts.window_bytes) == ("kernel", "2026-05", WINDOW)
            assert facts.mappings == [Mapping(0, 2 * MIB, prot=1), Mapping(2 * MIB, 2 * MIB)]
        assert connect("auto", root).names() == []

    assert crowd(1, owner) == [0]


def test_a_file_is_written_down_by_its_path(root: str, kernel: Kernel, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "data")
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
    with Region.create("sga", window=WINDOW, backend=connect("auto", root)) as region:
        mapping = region.map_file(path, GIB)
        region.map(Mapping(0, 2 * MIB, "hugetlb"))
        assert region.stat().mappings == [Mapping(0, 2 * MIB, "hugetlb"), mapping]
    assert [call[0] for call in kernel.asked] == ["mshare_map", "mshare_map"]


def test_what_the_kernel_refuses_is_not_written_down(
    root: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: int) -> int:
        raise OSError(errno.ENOMEM, "")

    with Region.create("sga", MIB, backend=connect("auto", root)) as region:
        before = region.stat()
        for call in ("mshare_map", "mshare_protect", "mshare_advise"):
            monkeypatch.setattr(kernel, call, refuse)
        for change in (
            lambda: region.map_anonymous(GIB, MIB),
            lambda: region.protect(0, MIB, "r"),
            lambda: region.advise(0, MIB, "remove"),
        ):
            with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
                change()
        assert region.stat() == before
