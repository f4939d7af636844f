# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An unmount that is killed at any of its steps: the next one leaves nothing, no empty directory either."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import signal

import pytest

from mshare import files
from mshare.backends import root as roots
from mshare.mount import converge, msharefs
from rig.apart import die_with

STEPS = ("take_down", "remove_directory", "_remove_group", "remove")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_the_next_one_ends_it(here, step, after):
    here.ok("mount", "--backend", "simulated")
    parent = os.getpid()
    if (child := os.fork()) == 0:
        die_with(parent)
        kill_at(step, after)
        msharefs.umount(str(here.root))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    here.ok("umount")
    left = [path for path in (here.root, here.config, here.state) if path.exists()]
    assert left == []


def test_a_mount_that_needs_no_change_removes_the_lock_of_a_killed_process(here):
    here.ok("mount", "--backend", "simulated")
    lock = here.state / "converge.lock"
    lock.parent.mkdir()
    lock.touch()
    here.ok("mount", "--backend", "simulated", "--check")
    assert lock.exists()
    with open(lock, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        here.ok("mount", "--backend", "simulated")
        assert lock.exists()
    here.ok("mount", "--backend", "simulated")
    assert not lock.parent.exists()


def test_a_directory_that_cannot_be_removed_is_told_and_the_next_one_ends_it(here, monkeypatch):
    here.ok("mount", "--backend", "simulated")

    def fails(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with monkeypatch.context() as broken:
        broken.setattr(files, "remove_directory", fails)
        with pytest.raises(OSError, match=f"Input/output error: '{here.root}'"):
            msharefs.umount(str(here.root))
    here.ok("umount")
    assert [path for path in (here.root, here.config, here.state) if path.exists()] == []


@pytest.mark.parametrize("which", range(1, 5))
def test_an_owner_whose_status_cannot_be_read_is_ended_as_well(here, which, monkeypatch):
    """At whichever of the times that it is read."""
    here.ok("mount", "--backend", "simulated")
    here.ok("create", "sga", "--backend", "simulated", "--size", "1MiB")
    monkeypatch.setenv("MSHARE_STATE_DIR", str(here.state))
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(here.config))
    reads = itertools.count(1)
    read_bytes = files.read_bytes

    def fails(path):
        if path.endswith("sga.owner.json") and next(reads) == which:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return read_bytes(path)

    with monkeypatch.context() as broken:
        broken.setattr(files, "read_bytes", fails)
        converge.mount_absent(str(here.root), force=True)
    assert next(reads) > which
    assert [path for path in (here.root, here.config, here.state) if path.exists()] == []


def kill_at(step, after):
    """Have this process killed where it is about to do a step, or has just done it."""
    module = {"take_down": roots, "_remove_group": msharefs}.get(step, files)
    do = getattr(module, step)

    def killed(*arguments):
        if step == "remove" and os.path.basename(os.path.dirname(arguments[0])) != "mounts":
            # The layout's own files; here the record is meant.
            do(*arguments)
            return
        if after:
            do(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, step, killed)
