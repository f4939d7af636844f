# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, owners and clients on the kernel backend, where the FUSE double answers as msharefs."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rig.kernel_world import KernelWorld, new_kernel_world
from rig.mount import NEEDS, can_mount_fuse
from rig.patience import eventually

pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)
MIB, GIB = 1 << 20, 1 << 30
UNMAP = 0x40107801


@pytest.fixture
def world() -> Iterator[KernelWorld]:
    with new_kernel_world() as made:
        yield made


def unmapped_by_another_program(world: KernelWorld, offset: int, size: int) -> None:
    """Whoever may open a region may unmap; nobody writes that down."""
    fd = os.open(world.mount.path("sga"), os.O_RDONLY)
    fcntl.ioctl(fd, UNMAP, struct.pack("<QQ", offset, size))
    os.close(fd)


def test_what_is_mapped_and_unmapped_later_is_known(world: KernelWorld) -> None:
    """The kernel lists nothing of it."""
    world.ok("create", "sga", "--size", "64MiB")
    assert world.json("map", "sga", "--offset", "1GiB", "--size", "4MiB")["unrecorded"] is None
    assert world.json("unmap", "sga", "--offset", "0", "--size", "2MiB")["unrecorded"] is None
    region = world.region()
    assert (region["health"], region["mapped_bytes"]) == ("healthy", 66 * MIB)
    places = [(entry["offset"], entry["size"]) for entry in region["mappings"]]
    assert places == [(2 * MIB, 62 * MIB), (GIB, 4 * MIB)]
    started = world.json("clients", "start", "sga", "--count", "2")["clients"]
    assert (started["attached"], started["span_bytes"]) == (2, 66 * MIB)
    assert world.json("attach", "sga", "--touch", "66MiB")["span_bytes"] == 66 * MIB
    assert "nothing to do" in world.ok("create", "sga", "--size", "64MiB")


def test_regions_in_directories(world: KernelWorld) -> None:
    mount = ["mount", "--backend", "kernel", "--mode", "0755", "--directory"]
    assert world.json(*mount, "name=sales")["actions"][:2] == [
        f"set mode and group of {world.mount.root}",
        "make directory sales",
    ]
    assert not world.json(*mount, "name=sales,mode=3770")["changed"]
    world.ok("create", "sales/sga", "--size", "64MiB")
    world.ok("create", "sales.sga", "--size", "64MiB")
    regions = world.json("list")["regions"]
    assert [(each["name"], each["health"]) for each in regions] == [
        ("sales.sga", "healthy"),
        ("sales/sga", "healthy"),
    ]
    program = "import mmap; m = mmap.mmap(-1, 32 << 20); m[0] = 1; print(open('/proc/self/maps').read())"
    world.ok("create", "sales/run", "--size", "64MiB")
    assert "/sales/run\n" in world.ok("run", "--region", "sales/run", "--", sys.executable, "-c", program)
    world.ok("rm", "sales/run")
    assert world.json("clients", "start", "sales/sga", "--count", "2")["clients"]["attached"] == 2
    in_use = world.run("rm", "sales/sga")
    assert in_use.returncode == 5
    assert "would kill 2 attached clients" in " ".join(in_use.stderr.split())
    full = world.run(*mount, "name=sales,state=absent")
    assert full.returncode == 5
    assert "is not empty: it has sales/sga" in " ".join(full.stderr.split())
    for name in ("sales/sga", "sales.sga"):
        world.ok("rm", name, "--force")
    assert "remove directory sales" in world.json(*mount, "name=sales,state=absent")["actions"]
    assert world.json("list")["directories"] == []


def test_a_touch_of_what_another_program_unmapped_is_said(world: KernelWorld) -> None:
    world.ok("create", "sga", "--size", "64MiB")
    unmapped_by_another_program(world, 6 * MIB, 2 * MIB)
    attach = world.run("attach", "sga", "--touch", "8MiB")
    start = world.run("clients", "start", "sga", "--count", "2")
    for done in (attach, start):
        assert done.returncode == 1
        assert "region sga cannot be touched at offset 0x600000: " in done.stderr
    assert world.ok("attach", "sga", "--touch", "6MiB")
    assert world.region()["clients"] is None


@contextmanager
def region_of_another_program(world: KernelWorld, name: str) -> Iterator[subprocess.Popen[str]]:
    """A region that a program made and has mapped, without a status file: as PostgreSQL with the preload."""
    script = """
import fcntl, mmap, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
os.ftruncate(fd, 512 << 30)
fcntl.ioctl(fd, 0x40287800, struct.pack("<QQQIII4x", 0, 64 << 20, 0, 3, 0x31, 0xFFFFFFFF))
window = mmap.mmap(fd, 512 << 30)
print("ready", flush=True)
sys.stdin.read()
"""
    words = [sys.executable, "-c", script, world.mount.path(name)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


NAME = "preload.4711.1"


def test_a_live_region_of_another_program_is_not_called_stale(world: KernelWorld) -> None:
    """The kernel is asked whether it can be attached; who its owner is it tells nobody."""
    with region_of_another_program(world, NAME):
        region = world.region(NAME)
        assert (region["health"], region["source"]) == ("healthy", "root")
        assert (region["window_bytes"], region["mapped_bytes"]) == (512 * GIB, None)
        assert (region["owner"]["alive"], region["owner"]["state"]) == (True, "unmanaged")
        shown = world.ok("stat", NAME)
        assert "healthy (by the msharefs itself)" in shown
        assert "unknown: nobody wrote it down" in shown
        attached = world.ok("attach", NAME)
        assert "unknown: nobody wrote it down" in attached
        touched = world.run("attach", NAME, "--touch", "4MiB")
        assert (touched.returncode, touched.stdout) == (2, "")
        assert "what is mapped in region preload.4711.1 is not known" in touched.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("rm", NAME, "--force"),
        ("create", NAME, "--size", "64MiB", "--replace-stale", "--recreate", "--force"),
        ("own", NAME, "--size", "64MiB", "--replace-stale"),
    ],
)
def test_a_live_region_of_another_program_is_never_replaced(
    world: KernelWorld, command: tuple[str, ...]
) -> None:
    with region_of_another_program(world, NAME) as process:
        done = world.run(*command)
        assert done.returncode == 5
        assert "not an mshare owner" in done.stderr or "none of mshare's" in done.stderr
        assert process.poll() is None
        assert world.health(NAME) == "healthy"


def test_validate_a_region_of_another_program(world: KernelWorld) -> None:
    with region_of_another_program(world, NAME):
        unknown = world.run("validate", NAME)
        assert unknown.returncode == 1
        assert "how much of region preload.4711.1 is mapped is not known" in unknown.stderr
        done = world.run("--json", "validate", NAME, "--span", "64MiB", "--min-saving-percent", "0")
        assert done.returncode in (0, 3), done.stderr
        assert '"mapped_bytes": null' in done.stdout


def test_a_killed_owner_is_noticed_by_the_kernel_s_answer(world: KernelWorld) -> None:
    world.ok("create", "sga", "--size", "64MiB")
    assert world.region()["source"] == "root"
    os.kill(world.region()["owner"]["pid"], signal.SIGKILL)
    eventually(lambda: world.health() == "stale")
    assert world.region()["source"] == "root"
    assert "its owner has ended" in world.run("create", "sga", "--size", "64MiB").stderr
    world.ok("create", "sga", "--size", "64MiB", "--replace-stale")


def test_more_clients_leave_those_that_run_alone(world: KernelWorld) -> None:
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2")
    path = world.state.glob("*/sga.clients.json")
    before = json.loads(next(path).read_text())
    more = world.json("clients", "start", "sga", "--count", "4")["clients"]
    after = json.loads(next(world.state.glob("*/sga.clients.json")).read_text())
    assert (more["attached"], more["span_bytes"], more["dead"]) == (4, before["span_bytes"], [])
    assert set(before["pids"]) < set(after["pids"])


def test_a_region_is_filled_in_c(world: KernelWorld) -> None:
    world.ok("create", "sga", "--size", "64MiB", "--prefault", "--pattern")
    status = json.loads(next(world.state.glob("*/sga.owner.json")).read_text())
    assert (status["filler_reason"], status["prefault"]["done_bytes"]) == (None, 64 << 20)
    touched = world.json("attach", "sga", "--touch", "64MiB")
    assert (touched["verified_pages"], touched["wrong_pages"]) == (32, 0)
