# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detached processes: started, listed, stopped, and what is said where they do not come up."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from mshare.errors import Conflict, MshareError, Unavailable
from mshare.services import choose, status_file, supervisor
from mshare.services.detached import Detached, signal_process

READY = """
import json, os, signal, sys, time
from mshare.services import status_file
path, how = sys.argv[1:]
status = status_file.read(path)
assert status["pid"] == os.getpid(), "it is listed before it runs"
if how == "fails":
    from mshare import errors
    status_file.write(path, {**status, "state": "failed", "error": errors.to_dict(errors.Conflict("taken"))})
    sys.exit(5)
if how == "ends":
    sys.exit("no such thing")
status_file.write(path, {**status, "state": "ready"})
signal.pause()
"""


@pytest.fixture
def start(here):
    """Starts a process of a role, which comes up, fails or ends."""

    def start(how="ready", progress=supervisor.no_progress):
        path = status_file.file(str(here.root), "sga", supervisor.OWNER)
        first = {"state": "starting", "region": "sga"}
        argv = [sys.executable, "-c", READY, path, how]
        return Detached().start(supervisor.OWNER, "sga", str(here.root), argv, first, progress)

    return start


def status(here):
    return supervisor.status_of(supervisor.OWNER, "sga", str(here.root))


def test_it_is_started_and_stopped(here, start):
    told = []
    started = start(progress=told.append)
    assert started["state"] == "ready"
    assert status(here) == started == supervisor.require_owner("sga", str(here.root))
    assert told[-1]["state"] == "ready"
    assert Detached().stop(supervisor.OWNER, "sga", str(here.root)) is True
    assert status(here) is None
    assert here.processes() == []
    assert Detached().stop(supervisor.OWNER, "sga", str(here.root)) is False


def test_what_it_wrote_down_of_its_failure_is_raised(here, start):
    with pytest.raises(Conflict, match="^taken$"):
        start("fails")
    assert here.files() == []


def test_one_that_ends_in_silence_leaves_its_last_line(here, start):
    sentence = "the owner of sga ended with exit code 1 before it was ready: no such thing"
    with pytest.raises(MshareError, match=sentence):
        start("ends")
    assert here.files() == []


def test_no_such_program(here):
    with pytest.raises(FileNotFoundError):
        Detached().start(
            supervisor.OWNER, "sga", str(here.root), ["/no/program"], {"state": "starting"}, print
        )
    assert here.files() == []


def test_a_signal_goes_to_the_very_process_only(here, start):
    started = start()
    assert not signal_process({**started, "started_ticks": 1}, signal.SIGTERM)
    assert status(here) == started
    assert signal_process(started, signal.SIGTERM)


def test_nobody_owns_it(here):
    with pytest.raises(MshareError, match="has no owner that runs, so there is nothing to attach"):
        supervisor.require_owner("sga", str(here.root))


def test_waiting_ends_with_a_next_step():
    with pytest.raises(MshareError, match=r"^this took longer than 0 s; see there$"):
        supervisor.wait(lambda: False, 0, "this", "see there")


def test_it_does_not_survive_a_reboot():
    Detached().set_enabled(supervisor.OWNER, "sga", False)
    with pytest.raises(Unavailable, match="cannot be made to survive a reboot: systemd does not run"):
        Detached().set_enabled(supervisor.OWNER, "sga", True)


@pytest.mark.parametrize(
    ("runs", "uid", "kind"), [(True, 0, "systemd"), (True, 1, "detached"), (False, 0, "detached")]
)
def test_who_keeps_processes(monkeypatch, runs, uid, kind):
    monkeypatch.setattr(choose, "systemd_runs", lambda: runs)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert choose.current().kind == kind
