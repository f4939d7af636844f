# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients' programs have started ends with them, whoever is killed first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mshare.host import procfs
from mshare.services import tree
from rig.world import World, eventually, new_world

# Has a child that is in no process group of its parent's, and lives when that has ended.
PROGRAM = ["sh", "-c", "setsid -f sleep 600; sh -c 'sleep 600 & sleep 600' & exec sleep 600"]
# The same within the session of whoever starts it.
IN_SESSION = ["sh", "-c", "sh -c 'sleep 600 & sleep 600' & exec sleep 600"]


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        world.ok("create", "sga", "--size", "64MiB")
        yield world


def test_programs_end_with_what_they_started(world: World) -> None:
    owner_alone = len(world.processes())
    world.ok("clients", "start", "sga", "--count", "2", "--", *PROGRAM)
    eventually(lambda: len(world.processes()) == owner_alone + 1 + 2 * 5)
    world.ok("clients", "start", "sga", "--count", "1", "--", *PROGRAM)
    eventually(lambda: len(world.processes()) <= owner_alone + 1 + 5 + 1)
    world.ok("clients", "stop", "sga")
    eventually(lambda: len(world.processes()) == owner_alone)


def test_a_killed_launcher_leaves_nothing_once_it_is_stopped(world: World) -> None:
    owner_alone = len(world.processes())
    world.ok("clients", "start", "sga", "--count", "2", "--", *IN_SESSION)
    launcher = world.json("clients", "status", "sga")["clients"]["launcher_pid"]
    os.kill(launcher, signal.SIGKILL)
    eventually(lambda: procfs.start_ticks(launcher) is None)
    assert len(world.processes()) > owner_alone, "what the clients had started lives on"
    assert world.ok("clients", "stop", "sga").startswith("Stopped")
    eventually(lambda: len(world.processes()) == owner_alone)


def test_a_session_whose_number_was_used_again() -> None:
    mark = "MSHARE_PATH=/run/msharefs/sga"
    script = "sleep 600 & echo $!; MSHARE_PATH= sleep 600 & echo $!; sleep 600"
    environment = {**os.environ, "MSHARE_PATH": "/run/msharefs/sga"}
    with subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as leader:
        assert leader.stdout is not None
        child, stranger = (int(leader.stdout.readline()) for __ in range(2))
        started = procfs.start_ticks(leader.pid)
        assert started is not None
        eventually(lambda: child in tree.session(leader.pid, started, mark))
        assert tree.session(leader.pid, started - 1, mark) == [], "another process has the number"
        assert tree.session(leader.pid, started, mark + "2") == [], "another region's"
        leader.kill()
        leader.wait()
        eventually(lambda: stranger not in tree.session(leader.pid, started, mark))
        assert child in tree.session(leader.pid, started, mark)
        tree.end(tree.by_pid(tree.session(leader.pid, started, mark)), 10)
        assert tree.session(leader.pid, started, mark) == []
        assert procfs.start_ticks(stranger) is not None, "it is nobody's client"
        os.kill(stranger, signal.SIGKILL)


@pytest.mark.parametrize("pid", [0, 1])
def test_no_process_is_of_a_session_that_was_begun_outside_of_this_namespace(pid: int) -> None:
    assert tree.session(pid, 0, "PATH=" + os.environ["PATH"]) == []
    assert tree.session(os.getsid(0), 0, "PATH=" + os.environ["PATH"]) == []


def test_without_psutil_there_is_a_sentence() -> None:
    code = "import sys; sys.modules['psutil'] = None\nfrom mshare.services import tree\ntree.require()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "lib"},
    )
    assert "install the package python3-psutil, or `pip install psutil`" in done.stderr
