# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A launcher that is killed: `clients stop` ends all that its clients' programs had started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.host import procfs
from mshare.services import cgroup
from rig.world import COMMAND, World, eventually, new_world

# In a session of its own, without the environment that its parent was given, and nobody's child any more.
HIDDEN = "600.0{}"
PROGRAM = "env -i setsid -f sleep {0}; env -i setsid -f sh -c 'sleep {0} & exec sleep {0}'; exec sleep 600"
# What a program that hides nothing leaves.
PLAIN = "sh -c 'sleep {0} & exec sleep {0}' & exec sleep 600"


def needs_cgroup(function):
    path = cgroup.make("test")
    if path is not None:
        cgroup.end(path, 0)
    return pytest.mark.skipif(path is None, reason="no cgroup v2 here that this user may write to")(function)


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        world.ok("create", "sga", "--size", "64MiB")
        yield world
        world.run("clients", "stop", "sga")


def hidden(mark: str) -> list[int]:
    """The processes with a mark in their command line."""
    found = []
    for pid in procfs.pids():
        words = (procfs.read(f"/proc/{pid}/cmdline") or "").split("\0")
        if words[:2] == ["sleep", mark]:
            found.append(pid)
    return found


def start(world: World, program: str, mark: str) -> int:
    """Start clients with such a program; the launcher's pid."""
    world.ok("clients", "start", "sga", "--count", "2", "--", "sh", "-c", program.format(mark))
    pid: int = world.json("clients", "status", "sga")["clients"]["launcher_pid"]
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: procfs.start_ticks(pid) is None)


@needs_cgroup
def test_what_left_its_session_ends_with_a_killed_launcher(world: World) -> None:
    mark = HIDDEN.format(os.getpid())
    launcher = start(world, PROGRAM, mark)
    eventually(lambda: len(hidden(mark)) == 6)
    kill(launcher)
    assert len(hidden(mark)) == 6
    world.ok("clients", "stop", "sga")
    assert hidden(mark) == []
    assert left(world) == []


@needs_cgroup
def test_a_stop_ends_it_as_well_and_removes_the_cgroup(world: World) -> None:
    mark = HIDDEN.format(os.getpid())
    start(world, PROGRAM, mark)
    (record,) = left(world)
    path = Path(record.read_text().strip())
    assert path.is_dir()
    world.ok("clients", "stop", "sga")
    assert (hidden(mark), left(world), path.exists()) == ([], [], False)


@needs_cgroup
def test_the_cgroup_of_a_killed_launcher_is_removed_by_the_next_start(world: World) -> None:
    launcher = start(world, "exec sleep {0}", HIDDEN.format(os.getpid()))
    path = Path(left(world)[0].read_text().strip())
    kill(launcher)
    eventually(lambda: not cgroup.pids(str(path)))
    world.ok("clients", "start", "sga", "--count", "1")
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can unmount the cgroups")
def test_without_a_cgroup_the_session_is_known(world: World) -> None:
    mark = HIDDEN.format(os.getpid())
    words = [*COMMAND, "clients", "start", "sga", "--count", "2", "--", "sh", "-c", PLAIN.format(mark)]
    # As in a container: there is nothing to write to.
    script = 'umount --all --types cgroup2; exec "$@"'
    done = world.run(command=["unshare", "--mount", "sh", "-c", script, "sh", *words])
    assert done.returncode == 0, done.stderr
    assert left(world) == []
    eventually(lambda: len(hidden(mark)) == 4)
    kill(world.json("clients", "status", "sga")["clients"]["launcher_pid"])
    world.ok("clients", "stop", "sga")
    eventually(lambda: hidden(mark) == [])


def test_a_path_that_is_no_cgroup_of_ours_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mshare-clients-sga"
    folder.mkdir()
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (folder / "cgroup.kill").write_text("")
    assert cgroup.pids(str(folder)) == []
    cgroup.end(str(folder), 0)
    assert (folder / "cgroup.kill").read_text() == ""


def left(world: World) -> list[Path]:
    return sorted(world.state.rglob("*.cgroup"))
