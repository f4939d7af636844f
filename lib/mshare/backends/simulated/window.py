# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A region's address range in a process, on the simulated backend."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading

from ...errors import Conflict
from ...kernel import abi, syscalls
from ...record import Malformed
from ..base import Window
from ..mapping import subtract
from .layout import Placed, Record, Sidecar, within
from .watch import WATCHER

UNMAPPED = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_NORESERVE
# Objects this process mapped into regions, by (region inode, serial): they stay open as long as the
# process lives, for other processes reach them through it.
HELD: dict[tuple[int, int], int] = {}


def refusal(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def bury(fd: int) -> None:
    """Free a dead region's memory, as a kernel does when the owner ends, if nobody has it mapped.

    Each window holds a shared lock on the file, so the last to leave finds it free. Memory taken away
    earlier would be SIGBUS to a late one, where a kernel sends SIGSEGV. Readers can't, and needn't.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            # Memory without a name is sealed.
            size_bytes = os.fstat(fd).st_size
            syscalls.punch_hole(fd, 0, size_bytes)
    fcntl.flock(fd, fcntl.LOCK_UN)


def reopened(fd: int) -> int:
    """An open file of one's own, with locks of its own: writable if at all possible, for protection
    inside a region is the inner mapping's alone, however the file was opened."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


class SimulatedWindow(Window):
    def __init__(
        self, address: int, size_bytes: int, region_fd: int, sidecar: Sidecar, offset_bytes: int = 0
    ) -> None:
        """`offset_bytes` is where in the region it begins."""
        self.address = address
        self.size_bytes = size_bytes
        self._offset_bytes = offset_bytes
        self._region_fd = self._hold(region_fd)
        self._sidecar = sidecar
        self._mapped: list[Placed] = []
        self._lock = threading.Lock()
        self._attached = True

    @staticmethod
    def _hold(region_fd: int) -> int:
        fd = reopened(region_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def bell(self) -> int:
        return os.dup(self._sidecar.bell_fd)

    def owner_pidfd(self) -> int | None:
        owner = self._sidecar.read().owner
        if owner is None or owner.thread != owner.pid:
            return None
        try:
            return os.pidfd_open(owner.pid)
        except OSError:
            return None

    def after_fork(self) -> None:
        """The thread that held the lock, and may have been half-way, is not in this process."""
        self._lock = threading.Lock()
        # The parent's open file has the parent's lock.
        inherited, self._region_fd = self._region_fd, self._hold(self._region_fd)
        os.close(inherited)

    def refresh(self) -> bool:
        """Follow the sidecar; returns whether the region can still change."""
        with self._lock:
            if not self._attached:
                return False
            try:
                record = self._sidecar.read()
            except Malformed:
                # Somebody damaged it: what is mapped stays mapped.
                return True
            if record.dead:
                self._blank(self._offset_bytes, self._offset_bytes + self.size_bytes)
                self._mapped = []
                return False
            self._follow(record)
            return True

    def _follow(self, record: Record) -> None:
        """Map what is new and blank what is gone. What this process may not open becomes a hole; the
        rest is mapped before the refusal is raised."""
        placed = within(record.placed, self._offset_bytes, self._offset_bytes + self.size_bytes)
        known, wanted = set(self._mapped), set(placed)
        ranges = [(entry.mapping.offset, entry.mapping.end) for entry in placed]
        for entry in known - wanted:
            for start, end in subtract((entry.mapping.offset, entry.mapping.end), ranges):
                self._blank(start, end)
        self._mapped = [entry for entry in placed if entry in known]
        refused = None
        for entry in placed:
            if entry not in known:
                try:
                    self._map(entry, record.inode)
                    self._mapped.append(entry)
                except OSError as error:
                    self._blank(entry.mapping.offset, entry.mapping.end)
                    refused = error
        if refused is not None:
            raise refused

    def ended(self) -> None:
        with self._lock:
            if self._attached:
                bury(self._region_fd)

    def detach(self) -> None:
        with self._lock:
            if not self._attached:
                return
            self._attached = False
            syscalls.munmap(self.address, self.size_bytes)
        WATCHER.remove(self)
        os.close(self._region_fd)
        self._sidecar.close()

    def _blank(self, start: int, end: int) -> None:
        # PROT_NONE: a touch here is SIGSEGV, as in a hole of a region.
        flags = UNMAPPED | abi.MAP_FIXED
        syscalls.mmap(self._address_of(start), end - start, abi.PROT_NONE, flags, -1)

    def _address_of(self, offset: int) -> int:
        """Of an offset in the region."""
        return self.address + offset - self._offset_bytes

    def _map(self, entry: Placed, region_inode: int) -> None:
        mapping = entry.mapping
        if mapping.kind == "anonymous":
            fd, offset, own = self._region_fd, mapping.offset, False
        else:
            fd = open_object(entry, region_inode, self._region_fd, self._sidecar.fd)
            offset, own = mapping.object_offset, True
        try:
            where = self._address_of(mapping.offset)
            flags = abi.MAP_SHARED | abi.MAP_FIXED
            syscalls.mmap(where, mapping.size_bytes, mapping.prot & allowed(fd), flags, fd, offset)
            if entry.advice:
                # A kernel without huge pages has no such advice.
                with contextlib.suppress(OSError):
                    syscalls.madvise(where, mapping.size_bytes, entry.advice)
        finally:
            if own:
                os.close(fd)


def allowed(fd: int) -> int:
    """The protection bits that a file descriptor can carry."""
    return abi.PROT_ALL if access_mode(fd) == os.O_RDWR else abi.PROT_READ | abi.PROT_EXEC


def access_mode(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def open_object(entry: Placed, region_inode: int, region_fd: int, sidecar_fd: int) -> int:
    """Open what a mapping shows: by this process's own descriptor, its path, or its holder's."""
    held = HELD.get((region_inode, entry.serial))
    if held is not None:
        return os.dup(held)
    writes = bool(entry.mapping.prot & abi.PROT_WRITE)
    flags = (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC
    refused = refusal(errno.EACCES, entry.mapping.path or "object")
    for path in (entry.mapping.path, f"/proc/{entry.holder_pid}/fd/{entry.holder_fd}"):
        if path is None:
            continue
        # Any user who may change the sidecar chose the path: it is checked before it is opened.
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            refused = error
            continue
        try:
            file = os.fstat(place)
            if (file.st_dev, file.st_ino) == (entry.device, entry.inode) and stat.S_ISREG(file.st_mode):
                writers = os.fstat(sidecar_fd)
                if not _granted(file, writers, writes) and not _holds(entry, os.fstat(region_fd), writes):
                    raise _NotGranted(path, writers, writes)
                return os.open(f"/proc/self/fd/{place}", flags)
        except _NotGranted:
            raise
        except OSError as error:
            refused = refusal(error.errno or errno.EACCES, path)
        finally:
            os.close(place)
    raise refused


class _NotGranted(PermissionError, Conflict):
    """A file that the users who may have named it may not open. EACCES, as from a kernel, with a sentence."""

    def __init__(self, path: str, writers: os.stat_result, writes: bool) -> None:
        super().__init__(errno.EACCES, os.strerror(errno.EACCES), path)
        self._sentence = (
            f"{path} is not mapped: the region's record names it, but those who may change the record (uid"
            f" {writers.st_uid}, gid {writers.st_gid}, mode {stat.S_IMODE(writers.st_mode):04o}) may not"
            f" {'write' if writes else 'read'} it; give them access to the file, or have its owner map it"
        )

    def __str__(self) -> str:
        return self._sentence


def _granted(file: os.stat_result, writers: os.stat_result, writes: bool) -> bool:
    """Whether those who may change a sidecar could open an object themselves.

    A process with more rights must not map, for them, a file that they chose and may not open.
    """
    wanted = 0o6 if writes else 0o4
    if file.st_mode & wanted == wanted:
        return True
    if writers.st_uid not in (0, os.geteuid()):
        return file.st_uid == writers.st_uid
    if writers.st_mode & stat.S_IWOTH:
        return False
    if writers.st_mode & stat.S_IWGRP:
        return file.st_gid == writers.st_gid and file.st_mode >> 3 & wanted == wanted
    return True


def _holds(entry: Placed, region: os.stat_result, writes: bool) -> bool:
    """Whether the process that is said to have mapped an object has it open with that access, and has the
    region open too: it could open the object, and chose this region for it."""
    process = f"/proc/{entry.holder_pid}"
    with contextlib.suppress(OSError, ValueError):
        held = os.stat(f"{process}/fd/{entry.holder_fd}")
        with open(f"{process}/fdinfo/{entry.holder_fd}", encoding="ascii") as file:
            flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
        enough = (os.O_RDWR,) if writes else (os.O_RDWR, os.O_RDONLY)
        if (held.st_dev, held.st_ino) != (entry.device, entry.inode) or flags & os.O_ACCMODE not in enough:
            return False
        return any(_is(f"{process}/fd/{number}", region) for number in os.listdir(f"{process}/fd"))
    return False


def _is(path: str, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), file)
    return False
