# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Code that runs as another real user, in a forked child, and directories that both can reach."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .apart import die_with

UID = 54321
"""Nobody on this machine has it."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@contextlib.contextmanager
def shared_directory(where: str = "/dev/shm") -> Iterator[Path]:
    """A new directory of root's that everybody may enter."""
    path = Path(tempfile.mkdtemp(dir=where, prefix="mshare-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def directory_of_other(path: Path, mode: int = 0o755) -> Path:
    """A new directory that belongs to the other user."""
    path.mkdir()
    os.chown(path, UID, UID)
    path.chmod(mode)
    return path


def become(uid: int = UID, groups: tuple[int, ...] = ()) -> None:
    os.setgroups(list(groups))
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def as_other(do: Callable[[], object], uid: int = UID, groups: tuple[int, ...] = ()) -> None:
    """Run a function as the other user and wait; what it raises fails the test."""
    child = _fork(do, uid, groups)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see the traceback above"


@contextlib.contextmanager
def running_as_other(do: Callable[[], object], uid: int = UID, groups: tuple[int, ...] = ()) -> Iterator[int]:
    """Have a function run beside the block, as the other user; its pid. It is killed afterwards."""
    child = _fork(do, uid, groups)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _fork(do: Callable[[], object], uid: int, groups: tuple[int, ...]) -> int:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become(uid, groups)
            # Becoming another user takes it back.
            die_with(parent)
            do()
            code = 0
        finally:
            # Never back into the test's code.
            if code:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
    return child
