# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tmpfs without room, a layout that was begun, files that are damaged: a sentence, and a way out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mshare.host import procfs
from mshare.info import attached
from rig.world import World, eventually, new_world

# A program of somebody's: it maps a region's file, says so, and stays until its input ends.
MAPS_AND_STAYS = """
import mmap, os, sys
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096)
os.write(1, b"r\\n")
sys.stdin.read()
"""
needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@needs_mounts
def test_a_full_tmpfs_takes_no_region_and_keeps_nothing_of_it(world: World) -> None:
    root = str(world.directory / "m")
    where = ["--root", root]
    mounted, made, filled, refused, listed, info, removed, again, last, unmounted = (
        world.run_in_mount_namespace(
            ["mshare", "mount", "--size", "32MiB", *where],
            ["mshare", "create", "a", "--size", "64MiB", "--overcommit", *where],
            ["dd", "if=/dev/zero", f"of={root}/a", "bs=1M", "count=64", "conv=notrunc"],
            ["mshare", "create", "b", "--size", "1MiB", *where],
            ["mshare", "--json", "list", *where],
            ["mshare", "info", *where],
            ["mshare", "rm", "a", *where],
            ["mshare", "create", "b", "--size", "1MiB", *where],
            ["mshare", "rm", "b", *where],
            ["mshare", "umount", *where],
        )
    )
    assert (mounted.returncode, made.returncode) == (0, 0), made.stderr
    assert "No space left on device" in filled.stderr
    assert refused.returncode == 1
    assert "No space left on device (ENOSPC); give the tmpfs more room" in " ".join(refused.stderr.split())
    assert listed.stdout.count('"name"') == 1
    for done in (listed, info, removed, again, last, unmounted):
        assert done.returncode == 0, done.stderr
    assert not os.path.exists(root)


@needs_mounts
@pytest.mark.parametrize(
    "begun", [(), ("mshare_info",), (".simulated",), (".simulated", ".simulated/layout.json")]
)
@pytest.mark.parametrize("command", ["mount", "umount"])
def test_a_mount_that_was_killed_half_way(world: World, begun: tuple[str, ...], command: str) -> None:
    root = world.directory / "m"
    root.mkdir()
    leave = "; ".join(
        [
            "true",
            *(f"mkdir {root}/{name}" if name == ".simulated" else f"touch {root}/{name}" for name in begun),
        ]
    )
    __, ___, done, listed, ended, left = world.run_in_mount_namespace(
        ["mount", "-t", "tmpfs", "-o", "mode=0700", "mshare-simulated", str(root)],
        ["sh", "-c", leave],
        ["mshare", command, "--root", str(root)],
        ["mshare", "list", "--root", str(root)],
        ["mshare", "umount", "--root", str(root)],
        ["grep", "-c", str(root), "/proc/self/mountinfo"],
    )
    assert done.returncode == 0, done.stderr
    assert ("is mounted at" if command == "mount" else "Unmounted") in done.stdout
    assert (listed.returncode == 0) == (command == "mount"), listed.stderr
    assert ended.returncode == 0, ended.stderr
    assert left.stdout == "0\n"


def test_a_status_that_is_damaged_ends_with_its_owner(world: World) -> None:
    """The owner lives, and is found by the lock that it holds."""
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("create", "other", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2")
    owner = world.region()["owner"]["pid"]
    for role in ("owner", "clients"):
        (file,) = world.state.rglob(f"sga.{role}.json")
        file.write_text('{"schema_version": 1, "pid": "x"')
    listed = world.json("list")["regions"]
    assert {region["name"]: region["health"] for region in listed} == {
        "other": "healthy",
        "sga": "unreadable",
    }
    assert "sga.owner.json is not valid JSON" in world.region()["reason"]
    shown = world.ok("list")
    assert "sga: " in shown
    assert "is not valid JSON" in shown
    assert "is not valid JSON" in world.ok("stat", "sga")
    assert "is not valid JSON" in world.ok("clients", "status", "sga")
    refused = world.run("create", "sga", "--size", "64MiB")
    assert refused.returncode == 1
    assert "`mshare rm sga --force` ends what is left of the region" in " ".join(refused.stderr.split())
    world.ok("rm", "sga", "--force")
    assert procfs.start_ticks(owner) is None
    assert [region["name"] for region in world.json("list")["regions"]] == ["other"]
    eventually(lambda: len(world.processes()) == 1)


def test_a_sidecar_that_is_damaged(world: World) -> None:
    world.ok("create", "sga", "--size", "64MiB", "--pattern")
    world.ok("clients", "start", "sga", "--count", "2")
    owner = world.region()["owner"]["pid"]
    sidecar = world.root / ".simulated" / "sga.json"
    sidecar.write_bytes(b"\xff" * 10)
    assert world.health() == "unreadable"
    assert "sga.json is not UTF-8 text" in world.region()["reason"]
    refused = world.run("attach", "sga")
    assert refused.returncode == 1
    assert "sga.json is not UTF-8 text" in " ".join(refused.stderr.split())
    world.ok("rm", "sga", "--force")
    assert procfs.start_ticks(owner) is None
    assert world.json("list")["regions"] == []


def test_force_ends_all_that_is_on_a_root(world: World) -> None:
    root = str(world.root)
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2")
    (world.root / ".simulated" / "layout.json").chmod(0o644)
    (world.root / ".simulated" / "layout.json").write_text("")
    refused = world.run("umount", "--root", root)
    assert refused.returncode == 5
    assert "in use by region sga" in " ".join(refused.stderr.split())
    refused = world.run("mount", "--root", root, "--backend", "simulated")
    assert refused.returncode == 5
    assert f"`mshare umount --force --root {root}` ends it" in " ".join(refused.stderr.split())
    world.ok("umount", "--force", "--root", root)
    assert world.processes() == []
    assert not (world.root / ".simulated").exists()
    assert world.ok("umount", "--force", "--root", root).startswith("There is no msharefs")


def test_force_is_refused_before_anything_ends_while_a_stranger_is_attached(world: World) -> None:
    root = str(world.root)
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2")
    command = [sys.executable, "-c", MAPS_AND_STAYS, str(world.root / "sga")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        running = sorted(world.processes())
        for words in (["--check"], []):
            refused = world.run("umount", "--force", "--root", root, *words)
            assert refused.returncode == 5
            sentence = " ".join(refused.stderr.split())
            assert f"{root} is in use by programs that mshare did not start" in sentence
            assert re.search(rf"region sga \({stranger.pid} .*\); stop them first; nothing was", sentence)
        assert sorted(world.processes()) == running
        assert world.json("clients", "status", "sga")["clients"]["attached"] == 2
        stranger.communicate("")
    world.ok("umount", "--force", "--root", root)
    assert world.processes() == []


def test_what_a_clients_program_has_started_is_no_stranger(here: World) -> None:
    here.ok("create", "sga", "--size", "64MiB")
    program = f'sleep 1000000 | {sys.executable} -c "$0" "$MSHARE_PATH"'
    here.ok("clients", "start", "sga", "--count", "1", "--", "sh", "-c", program, MAPS_AND_STAYS)
    eventually(lambda: attached.processes(str(here.root), "sga")[1:])
    assert attached.strangers(str(here.root), "sga") == []
    here.ok("umount", "--force", "--root", str(here.root))
    eventually(lambda: here.processes() == [])
