# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock that cannot be had leaves nothing: no file, no directory, and nothing open."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mshare import files
from mshare.converge import outcome
from mshare.errors import Conflict
from mshare.services import lock
from rig.faults import fail_at, open_files

EVERY = range(1, 100)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def take(path: Path) -> None:
    with lock.locked(str(path), "this"):
        pass


@pytest.mark.parametrize("place", ["converge.lock", "run-msharefs/sga.owner.lock"])
@pytest.mark.parametrize(
    ("module", "call", "numbers"),
    [
        (fcntl, "flock", {1}),
        (fcntl, "flock", EVERY),
        (os, "pwrite", {1}),
        (files, "create_file", {1}),
        (lock, "_is_at", {1}),
    ],
    ids=["flock", "every flock", "pwrite", "create_file", "stat"],
)
def test_a_lock_that_cannot_be_had_leaves_nothing(
    state: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str, numbers: set[int], place: str
) -> None:
    before = open_files()
    with monkeypatch.context() as patch:
        calls = fail_at(patch, module, call, numbers, errno.ENOLCK)
        with pytest.raises(OSError, match="No locks available"):
            take(state / place)
        assert calls
    assert not state.exists()
    assert open_files() == before
    take(state / place)


@pytest.mark.parametrize(("module", "call"), [(fcntl, "flock"), (os, "pwrite")])
def test_a_lock_file_that_was_there_before_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str
) -> None:
    path = state / "converge.lock"
    take(path)
    before = open_files()
    with monkeypatch.context() as patch:
        fail_at(patch, module, call, {1}, errno.ENOLCK)
        with pytest.raises(OSError, match="No locks available"):
            take(path)
    assert path.exists()
    assert open_files() == before
    take(path)


def test_a_new_lock_file_that_another_process_has_taken_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was faster: between the making of the file and the failure it has got the lock."""
    path = state / "converge.lock"
    opened = lock._open_lock
    others = []

    def another(name: str) -> tuple[int, bool]:
        found = opened(name)
        others.append(os.open(name, os.O_RDWR))
        fcntl.flock(others[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        fail_at(monkeypatch, fcntl, "flock", {1}, errno.ENOLCK)
        return found

    monkeypatch.setattr(lock, "_open_lock", another)
    with pytest.raises(OSError, match="No locks available"):
        take(path)
    assert path.exists()
    os.close(others[0])


def test_a_lock_that_is_held_stays_with_its_holder(state: Path) -> None:
    path = state / "converge.lock"
    with lock.locked(str(path), "this"):
        before = open_files()
        with pytest.raises(Conflict, match=f"this is held by process {os.getpid()} "):
            take(path)
        assert path.exists()
        assert open_files() == before


def test_a_turn_that_cannot_be_had_leaves_nothing(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, fcntl, "flock", {1}, errno.ENOLCK)
    with pytest.raises(OSError, match="No locks available"), outcome.one_at_a_time(False):
        pytest.fail("it has no turn")
    assert not state.exists()
