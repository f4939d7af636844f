# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lock files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from .. import paths
from ..errors import Conflict
from ..host import procfs

_WAIT_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: str, what: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold a lock file's lock; Conflict, naming the holder, when it is not free in time.

    Who holds it may remove the file: those who wait for it then wait for the next one.
    """
    fd = _acquire(path, what, wait_seconds)
    try:
        yield
    finally:
        os.close(fd)


def holder(path: str) -> int | None:
    """The process that holds a lock, as the kernel tells it; None where nobody does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 4711 00:1a:55 0 EOF
    held = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in procfs.lines(procfs.read("/proc/locks")):
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == held and int(fields[4]) > 0:
            return int(fields[4])
    return None


def _acquire(path: str, what: str, wait_seconds: float) -> int:
    deadline = time.monotonic() + wait_seconds
    while True:
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode().strip() or "unknown"
            os.close(fd)
            if time.monotonic() >= deadline:
                raise Conflict(
                    f"{what} is held by process {holder}"
                    + (f" for more than {wait_seconds:g} s" if wait_seconds else "")
                    + "; wait for it to end, or stop it"
                ) from None
            time.sleep(_WAIT_SECONDS)
            continue
        if _is_at(fd, path):
            _sign(fd)
            return fd
        os.close(fd)


def _sign(fd: int) -> None:
    """Write into a lock who holds it. It is held without, too: a teardown has to work on a full tmpfs."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            os.close(fd)
            raise


def _open_lock(path: str) -> int:
    while True:
        # Another process may remove the directory, as the last of our files, while this one is on its way in.
        with contextlib.suppress(FileNotFoundError):
            paths.make_directory(paths.state_dir())
            paths.make_directory(os.path.dirname(path))
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
