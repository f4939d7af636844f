# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regions of generation 2026-05, which have no file, by the library and the commands that others have."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator

import pytest

import mshare
from conformance.actors import crowd
from conformance.targets import Target
from mshare.backends import choose
from mshare.backends import root as roots
from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping
from mshare.errors import InvalidRequest, Unavailable
from mshare.info import attached
from mshare.preload import keeper
from mshare.region.status import OWNER
from mshare.services import status_file
from mshare.units import GIB, KIB, MIB
from rig.world import World, eventually, new_world

WINDOW = 512 * GIB


@pytest.fixture
def next_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with Target("2026-05", "simulated").mounted() as root:
        monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
        monkeypatch.setattr(choose.paths, "simulated_root", lambda: root)
        yield root


@pytest.fixture
def older_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with Target("2025-08", "simulated").mounted() as root:
        monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
        monkeypatch.setattr(choose.paths, "simulated_root", lambda: root)
        yield root


@pytest.fixture
def world() -> Iterator[World]:
    with new_world("2026-05") as made:
        yield made


def in_a_process(act: Callable[[], None]) -> None:
    """Attach nothing in the test's own process."""
    assert crowd(1, lambda _number: act()) == [0]


# -- the library


@pytest.mark.usefixtures("next_root")
def test_create_attach_stat_close() -> None:
    def act() -> None:
        with mshare.Region.create("sga", "300GiB", overcommit=True, mode=0o640) as region:
            stat = region.stat()
            assert (stat.generation, stat.window_bytes, stat.mapped_bytes) == ("2026-05", WINDOW, 300 * GIB)
            assert (stat.address, stat.mode) == (None, 0o640)
            with mshare.Region.open("sga") as again, again.attach() as attachment:
                attachment.view(299 * GIB, 5)[:] = b"hello"
            assert mshare.list_regions() == ["sga"]
        assert mshare.list_regions() == []
        with pytest.raises(FileNotFoundError):
            mshare.Region.open("sga")

    in_a_process(act)


@pytest.mark.usefixtures("next_root")
def test_a_part_protection_and_advice() -> None:
    def act() -> None:
        with mshare.Region.create("sga", window=2 * WINDOW) as region:
            region.map_anonymous(0, MIB)
            region.map_anonymous(WINDOW, MIB)
            with region.attach(offset=WINDOW) as half, region.attach(size=WINDOW) as first:
                assert (half.window_bytes, first.window_bytes) == (WINDOW, WINDOW)
                half.view(0, 5)[:] = b"other"
                first.view(0, 5)[:] = b"first"
                with pytest.raises(InvalidRequest, match="are outside the window of 512 GiB"):
                    half.view(WINDOW, 1)
                region.protect(0, "8KiB", "r")
                assert [(m.offset, m.prot) for m in region.stat().mappings or ()] == [
                    (0, 1),
                    (8 * KIB, 3),
                    (WINDOW, 3),
                ]
                region.advise(WINDOW, MIB, "remove")
                assert bytes(half.view(0, 5)) + bytes(first.view(0, 5)) == bytes(5) + b"first"
            with pytest.raises(
                InvalidRequest, match="advice 'populate' is unknown; write one of dontneed, remove"
            ):
                region.advise(0, MIB, "populate")
            with pytest.raises(InvalidRequest, match="protection 'x' is unknown; write r or rw"):
                region.protect(0, MIB, "x")

    in_a_process(act)


@pytest.mark.usefixtures("older_root")
def test_what_older_generations_cannot_do_is_refused() -> None:
    with mshare.Region.create("sga", MIB) as region:
        for call in (
            lambda: region.protect(0, MIB, "r"),
            lambda: region.advise(0, MIB, "remove"),
            lambda: region.attach(offset=0, size=WINDOW),
            lambda: region.attach(offset=WINDOW),
        ):
            with pytest.raises(OSError, match="in generation 2025-08") as caught:
                call()
            assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.usefixtures("next_root")
def test_a_refusal_half_way_leaves_nothing() -> None:
    with pytest.raises(FileNotFoundError, match="/none/such"):
        mshare.Region.create("sga", mappings=[Mapping(0, MIB), Mapping(GIB, MIB, "file", path="/none/such")])
    assert mshare.list_regions() == []


@pytest.mark.usefixtures("next_root")
def test_what_mshare_creates_stays_as_long_as_the_process() -> None:
    """The call of the first mails returns no descriptor that could be kept open."""

    def act() -> None:
        mshare.mshare("sga", 0, MIB, os.O_RDWR | os.O_CREAT)
        assert mshare.list_regions() == ["sga"]
        mshare.mshare("sga", 0, MIB)

    in_a_process(act)


def test_a_region_does_not_go_into_a_region(next_root: str) -> None:
    with mshare.Region.create("one", MIB) as one, mshare.Region.create("two", window=WINDOW) as two:
        for region in (one, two):
            path = f"/proc/self/fd/{region._file.fd}"
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                two.map(Mapping(0, MIB, "file", path=path))


def test_no_file_system_limits_the_memory(next_root: str, older_root: str) -> None:
    assert roots.free_bytes(next_root) is None
    assert roots.free_bytes(older_root) is not None


def test_programs_that_open_regions_by_their_path_are_refused(next_root: str) -> None:
    with pytest.raises(Unavailable, match="have no path at which a program could open them"):
        keeper.require_files(connect("simulated", next_root))


# -- owner, clients, commands


def test_an_owner_and_its_clients_and_the_owner_s_end(world: World) -> None:
    with world.owned() as owner:
        world.ok("clients", "start", "sga", "--count", "3")
        region = world.region()
        assert region["health"] == "healthy"
        assert region["source"] == "root"
        assert region["clients"]["attached"] == 3
        assert region["clients"]["client_kind"] == "python"
        assert region["clients"]["client_kind_reason"] == (
            "mshare-client opens a region by its path, and one of generation 2026-05 has none"
        )
        pids = [process.pid for process in attached.processes(str(world.root), "sga")]
        assert len(pids) == 3
        world.ok("attach", "sga", "--touch", "64MiB")
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    # Which then touch it, and get SIGSEGV.
    eventually(lambda: not attached.processes(str(world.root), "sga"))
    assert world.health() == "stale"
    refused = world.run("attach", "sga")
    assert refused.returncode == 1
    assert "the region ended with its owner (ESTALE); remove its name" in " ".join(refused.stderr.split())
    world.ok("clients", "stop", "sga")
    world.ok("rm", "sga")
    assert world.region()["health"] is None
    with world.owned():
        world.ok("attach", "sga", "--touch", "64MiB")


def test_it_is_marked_wherever_it_is_shown(world: World) -> None:
    marked = f"{world.root}: generation 2026-05 (described, not posted), no kernel has it"
    assert marked in world.ok("info")
    fields = world.json("info")["mounts"]
    assert [mount["generation"] for mount in fields if mount["root"] == str(world.root)] == ["2026-05"]


def test_an_owner_that_is_told_to_end_leaves_nothing(world: World) -> None:
    world.ok("create", "sga", "--size", "64MiB")
    assert world.health() == "healthy"
    world.ok("rm", "sga")
    assert world.files() == []
    assert os.listdir(world.root / ".simulated") == ["layout.json"]


def test_a_change_of_protection_is_written_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that is not the owner, for those who know a region by its owner's status file."""
    monkeypatch.setenv("MSHARE_STATE_DIR", str(world.state))
    with world.owned():
        with mshare.Region.open("sga", backend=connect("simulated", str(world.root))) as region:
            assert region.protect(MIB, MIB, "r") is None
        status = status_file.read(str(world.root), "sga", OWNER)
        assert status is not None
        assert [(entry.offset, entry.size, entry.protection) for entry in status.mappings or ()] == [
            (0, MIB, "rw"),
            (MIB, MIB, "r"),
            (2 * MIB, 62 * MIB, "rw"),
        ]
        assert status.pattern is not None
