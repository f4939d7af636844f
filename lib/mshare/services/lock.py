# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: of files of our own, held as long as something is done, and of files that others may open, too.

Nothing waits forever: the holder of a lock may be a program that hangs, or a hostile program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator

from .. import files, paths
from ..errors import Conflict
from ..host import procfs

_WAIT_SECONDS = 0.05
_LOOKS = 500
# Short at first: who changes a region again and again holds its lock most of the time, a moment each.
_FIRST_WAIT_SECONDS = 0.0002


@contextlib.contextmanager
def locked(path: str, what: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold a lock file's lock; Conflict, naming the holder, when it is not free in time.

    The holder may remove the file: processes that wait for it then wait for the next file.
    """
    fd = _acquire(path, what, wait_seconds)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def held(fd: int, what: str) -> Iterator[None]:
    """Hold the lock of an open file that others may open, too.

    Conflict, naming the holder, when it was not free after a number of tries (some 20 s).
    """
    _take(fd, what)
    try:
        yield
    finally:
        # Closing would not do: a child forked meanwhile has the same open file.
        fcntl.flock(fd, fcntl.LOCK_UN)


def try_shared(fd: int, looks: int) -> bool:
    """Take a shared lock to read; without it, where another process does not release its lock."""
    for number in range(looks):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            _pause(number)
    return False


def _take(fd: int, what: str) -> None:
    for number in range(_LOOKS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            _pause(number)
    raise Conflict(
        f"{what} cannot be changed: process {_holder_text(fd)} holds its lock; wait for it to end, or stop it"
    )


def _pause(number: int) -> None:
    time.sleep(min(_FIRST_WAIT_SECONDS * (number + 1), _WAIT_SECONDS))


def holder(path: str) -> int | None:
    """The process that holds a lock, as the kernel reports it; None where nobody does."""
    try:
        return _holder(os.stat(path))
    except OSError:
        return None


def _holder(status: os.stat_result) -> int | None:
    identity = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = [pid for pid in _lockers(procfs.read("/proc/locks"), identity) if pid > 0]
    if not pids:
        return None
    # A lock lives on in the children of a process that has ended.
    living = [pid for pid in pids if procfs.start_ticks(pid) is not None] or _sharers(identity)
    return next(iter(living), None)


def _holder_text(fd: int) -> str:
    """Who holds the lock of an open file, for a sentence."""
    pid = _holder(os.fstat(fd))
    if pid is None:
        return "that cannot be seen from here"
    return f"{pid} ({procfs.command(pid)})"


def _lockers(text: str | None, identity: str) -> list[int]:
    """The pids in lines like "1: FLOCK  ADVISORY  WRITE 4711 00:1b:23 0 EOF"; waiters have an arrow."""
    fields = [line.replace("lock:", "").split() for line in procfs.lines(text)]
    return [int(words[4]) for words in fields if words[1:2] == ["FLOCK"] and identity in words]


def _sharers(identity: str) -> list[int]:
    """The processes that have a locked file open."""
    return [pid for pid in procfs.pids() if pid != os.getpid() and _shares(pid, identity)]


def _shares(pid: int, identity: str) -> bool:
    folder = f"/proc/{pid}/fdinfo"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _lockers(procfs.read(f"{folder}/{name}"), identity):
                return True
    return False


def _acquire(path: str, what: str, wait_seconds: float) -> int:
    deadline = time.monotonic() + wait_seconds
    try:
        while True:
            fd, new = _open_lock(path)
            holder_text = None
            with contextlib.ExitStack() as undo:
                undo.callback(os.close, fd)
                try:
                    if _take_at(fd, path, new):
                        undo.pop_all()
                        return fd
                except BlockingIOError:
                    holder_text = _holder_text(fd)
            if holder_text is None:
                continue
            if time.monotonic() >= deadline:
                raise Conflict(
                    f"{what} is held by process {holder_text}"
                    + (f" for more than {wait_seconds:g} s" if wait_seconds else "")
                    + "; wait for it to end, or stop it"
                )
            time.sleep(_WAIT_SECONDS)
    except BaseException:
        # Those made for a lock that was not taken. With anything in them they stay.
        files.remove_empty(os.path.dirname(path), paths.state_dir())
        raise


def _take_at(fd: int, path: str, new: bool) -> bool:
    """Lock an open file, if it still is the file at a path, and sign it.

    BlockingIOError where another process holds the lock. Any other failure removes a file that is new.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(fd, path):
            return False
        _sign(fd)
        return True
    except BlockingIOError:
        raise
    except BaseException:
        if new and _is_free(fd) and _is_at(fd, path):
            files.remove(path)
        raise


def _is_free(fd: int) -> bool:
    """Whether no other process holds the lock of an open file, which this process holds then if it can."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The system hands out no lock now (ENOLCK): only one that was taken before can exist.
        return _holder(os.fstat(fd)) is None
    return True


def _sign(fd: int) -> None:
    """Write into a lock who holds it. It is held without, too: a teardown has to work on a full tmpfs."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _open_lock(path: str) -> tuple[int, bool]:
    """A lock file, and whether this process made it."""
    while True:
        # Another process may remove the directory with the last file in it just before this process uses it,
        # or make the lock file first.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            files.make_directory(paths.state_dir())
            files.make_directory(os.path.dirname(path))
            try:
                return files.open_file(path, os.O_RDWR), False
            except FileNotFoundError:
                return files.create_file(path, os.O_RDWR, 0o600), True


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the file at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
