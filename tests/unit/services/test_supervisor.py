# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detached processes: started, listed, stopped, and what is said where they do not come up."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from mshare.errors import MshareError, Unavailable
from mshare.region.status import OWNER, require_owner, starting
from mshare.services import choose, detached, status_file, supervisor
from mshare.services.detached import Detached, signal_process
from rig.faults import fail_at

STAYS = """
import dataclasses, os, signal, sys
from mshare.errors import Conflict
from mshare.region.status import OWNER
from mshare.services import status_file
root, how = sys.argv[1:]
status = status_file.read(root, "sga", OWNER)
assert status.pid == os.getpid(), "it is listed before it runs"
if how == "ends":
    sys.exit("no such thing")
status_file.write(status_file.file(root, "sga", OWNER), dataclasses.replace(status, state="ready"))
signal.pause()
"""


@pytest.fixture
def start(here):
    """Starts a process in the role of an owner, which stays or ends."""

    def start(how="stays", progress=supervisor.no_progress):
        argv = [sys.executable, "-c", STAYS, str(here.root), how]
        first = starting("sga", str(here.root), {"name": "sga"})
        return Detached().start(OWNER, "sga", str(here.root), argv, first, progress)

    return start


def status(here):
    return supervisor.status_of(OWNER, "sga", str(here.root))


def test_it_is_started_and_stopped(here, start):
    told = []
    started = start(progress=told.append)
    assert started.state == "ready"
    assert status(here) == started == require_owner("sga", str(here.root))
    assert told[-1].state == "ready"
    assert Detached().stop(OWNER, "sga", str(here.root)) is True
    assert status(here) is None
    assert here.processes() == []
    assert Detached().stop(OWNER, "sga", str(here.root)) is False


def test_one_that_ends_in_silence_leaves_its_last_line(here, start):
    with pytest.raises(MshareError, match=r"the owner of sga .*before it was ready: no such thing"):
        start("ends")
    assert here.files() == []


def test_no_such_program(here):
    first = starting("sga", str(here.root), {"name": "sga"})
    with pytest.raises(FileNotFoundError):
        Detached().start(OWNER, "sga", str(here.root), ["/no/program"], first, supervisor.no_progress)
    assert here.files() == []


def test_a_signal_goes_to_the_very_process_only(here, start):
    started = start()
    assert not signal_process(started.pid, 1, signal.SIGTERM)
    assert status(here) == started
    assert signal_process(started.pid, started.started_ticks, signal.SIGTERM)


def test_nobody_owns_it(here):
    with pytest.raises(MshareError, match="has no running owner, so there is nothing to attach"):
        require_owner("sga", str(here.root))


def test_waiting_ends_with_a_next_step():
    with pytest.raises(MshareError, match=r"^this took longer than 0 s; see there$"):
        supervisor.wait(lambda: False, 0, "this", "see there")


def test_it_does_not_survive_a_reboot():
    Detached().set_enabled(OWNER, "sga", False)
    with pytest.raises(Unavailable, match="cannot be made to survive a reboot: systemd does not run"):
        Detached().set_enabled(OWNER, "sga", True)


@pytest.mark.parametrize(
    ("runs", "uid", "kind"), [(True, 0, "systemd"), (True, 1, "detached"), (False, 0, "detached")]
)
def test_who_keeps_processes(monkeypatch, runs, uid, kind):
    monkeypatch.setattr(choose, "systemd_runs", lambda: runs)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert choose.current().kind == kind


def test_one_whose_status_cannot_be_read_when_it_is_ready_is_ended(here, start, monkeypatch):
    real = status_file.read
    failed = []

    def read(*arguments):
        found = real(*arguments)
        if found is not None and found.state == "ready" and told and not failed:
            failed.append(found.pid)
            raise PermissionError("not now")
        return found

    told = []

    def progress(status):
        if status is not None and status.state == "ready":
            told.append(status)

    monkeypatch.setattr(status_file, "read", read)
    with pytest.raises(PermissionError, match="not now"):
        start(progress=progress)
    assert failed
    assert here.files() == []
    assert here.processes() == []


@pytest.mark.parametrize(
    ("module", "call"), [(os, "statvfs"), (detached, "_end_cgroup")], ids=["room", "cgroup"]
)
def test_one_that_cannot_be_prepared_leaves_no_directory(here, start, monkeypatch, module, call):
    with monkeypatch.context() as patch:
        fail_at(patch, module, call, {1})
        with pytest.raises(OSError, match="Input/output error"):
            start()
    assert not os.path.exists(status_file.directory(str(here.root)))
