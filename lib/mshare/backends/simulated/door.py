# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door of a region without a file: a socket at which its creator gives out the descriptor.

Who may have it is decided by the mode, user and group of the region's name, as they are at that moment. The
kernel tells who comes (SO_PEERCRED, SO_PEERGROUPS). A visitor is never waited for: it is answered once and at
once, and nothing that it sends is read. The answer is one byte, and one descriptor where that is GIVEN.

Descriptors on their way count against the creator's user (ETOOMANYREFS). So a visitor that does not take its
own is counted until it does, and a user with too many of those is told to come again.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
import threading
import time
from collections import Counter
from dataclasses import dataclass

from ... import files
from ...errors import Conflict

GIVEN, REFUSED, BUSY = b"+", b"-", b"?"
_BACKLOG = 4096
_VISITORS_OF_A_USER = 64
_VISITORS = 256
# Of struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("=iII")
_SO_PEERGROUPS = 59
# As much as Python asks for at most: 256 groups. Of a user with more of them none is known.
_GROUPS_BYTES = 1024
_NO_ROOM_SECONDS = 0.05
_ANSWER_SECONDS = 30.0
_CALLS = 1500
_CALL_SECONDS = 0.02


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, as the kernel says."""

    uid: int
    gids: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        __, uid, gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        groups = array.array("I")
        with contextlib.suppress(OSError):
            groups.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES))
        return cls(uid, frozenset({gid, *groups}))

    def access(self, file: os.stat_result) -> int | None:
        """O_RDWR, O_RDONLY or None: how it may open a file, by the file's mode, user and group."""
        mode = stat.S_IMODE(file.st_mode)
        if self.uid == 0:
            return os.O_RDWR
        if self.uid == file.st_uid:
            mode >>= 6
        elif file.st_gid in self.gids:
            mode >>= 3
        if not mode & 0o4:
            return None
        return os.O_RDWR if mode & 0o2 else os.O_RDONLY


class Door:
    """One region's: what is given out, and whose mode decides."""

    def __init__(
        self, listener: socket.socket, name_fd: int, memory_fd: int, read_only_fd: int | None
    ) -> None:
        """The descriptors stay the caller's. Who may only read is given `read_only_fd`; None of a kernel's
        region, whose descriptor there is only one of."""
        self.pid = os.getpid()
        self.listener = listener
        self._name_fd = os.dup(name_fd)
        self._memory_fd = os.dup(memory_fd)
        self._read_only_fd = None if read_only_fd is None else os.dup(read_only_fd)

    def answer(self, visitor: socket.socket, peer: Peer) -> bytes:
        """Give a visitor what it may have; the byte that it got."""
        name = os.fstat(self._name_fd)
        access = peer.access(name)
        if access is None:
            visitor.send(REFUSED)
            return REFUSED
        fd = self._memory_fd
        if self._read_only_fd is not None:
            self._follow(name)
            fd = self._memory_fd if access == os.O_RDWR else self._read_only_fd
        try:
            socket.send_fds(visitor, [GIVEN], [fd])
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            visitor.send(BUSY)
            return BUSY
        return GIVEN

    def _follow(self, name: os.stat_result) -> None:
        """Have the memory the access of its name: a visitor opens anew what it is given."""
        memory = os.fstat(self._memory_fd)
        if _access(memory) != _access(name):
            # Only root gives a file to another user; that user's processes then use what they are given.
            with contextlib.suppress(PermissionError):
                os.fchown(self._memory_fd, name.st_uid, name.st_gid)
            with contextlib.suppress(PermissionError):
                os.fchmod(self._memory_fd, stat.S_IMODE(name.st_mode))

    def close(self) -> None:
        self.listener.close()
        for fd in (self._name_fd, self._memory_fd, self._read_only_fd):
            if fd is not None:
                os.close(fd)


def _access(file: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid


class Doorman:
    """One thread that answers at every door of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors: dict[int, Door] = {}
        self._visitors: dict[int, tuple[socket.socket, int]] = {}
        """Those that have not taken what they were given, with their uid."""
        self._poll: select.epoll | None = None

    def open(self, door: Door) -> None:
        """Answer at a door from now on."""
        door.listener.listen(_BACKLOG)
        with self._lock:
            if self._poll is None:
                self._poll = select.epoll()
                run = threading.Thread(target=self._run, args=(self._poll,), name="mshare-door", daemon=True)
                run.start()
            self._doors[door.listener.fileno()] = door
            self._poll.register(door.listener.fileno(), select.EPOLLIN)

    def close(self, door: Door) -> None:
        """Answer no more; who has come meanwhile is hung up on."""
        with self._lock:
            assert self._poll is not None, "it was opened"
            del self._doors[door.listener.fileno()]
            self._poll.unregister(door.listener.fileno())
            door.close()

    def after_fork(self) -> None:
        """In a forked child, which owns no region: with its copy of a door, calls would wait for nobody."""
        for door in self._doors.values():
            door.close()
        for visitor, __ in self._visitors.values():
            visitor.close()
        if self._poll is not None:
            self._poll.close()
        self.__init__()  # type: ignore[misc]

    def _run(self, poll: select.epoll) -> None:
        while True:
            events = poll.poll()
            with self._lock:
                for fd, __ in events:
                    if fd in self._doors:
                        self._admit(self._doors[fd], poll)
                    elif fd in self._visitors:
                        self._see_off(fd, poll)

    def _admit(self, door: Door, poll: select.epoll) -> None:
        try:
            visitor, __ = door.listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                # The caller stays in the queue; without a pause this would go round and round.
                time.sleep(_NO_ROOM_SECONDS)
            return
        visitor.setblocking(False)
        try:
            peer = Peer.of(visitor)
            of_user = Counter(uid for __, uid in self._visitors.values())
            if len(self._visitors) >= _VISITORS or of_user[peer.uid] >= _VISITORS_OF_A_USER:
                visitor.send(BUSY)
            elif door.answer(visitor, peer) == GIVEN and _untaken(visitor):
                self._visitors[visitor.fileno()] = (visitor, peer.uid)
                # Edge-triggered: there is an event whenever it takes something, or hangs up.
                poll.register(visitor.fileno(), select.EPOLLOUT | select.EPOLLET)
                return
        except OSError:
            # It is gone already.
            pass
        visitor.close()

    def _see_off(self, fd: int, poll: select.epoll) -> None:
        visitor, __ = self._visitors[fd]
        # One that only shut its end down has not taken anything.
        if not _untaken(visitor):
            del self._visitors[fd]
            poll.unregister(fd)
            visitor.close()


def _untaken(visitor: socket.socket) -> bool:
    """Whether there is something on its way that the other end has not taken."""
    count = array.array("i", [0])
    fcntl.ioctl(visitor.fileno(), termios.TIOCOUTQ, count)
    return count[0] > 0


DOORMAN = Doorman()
os.register_at_fork(after_in_child=DOORMAN.after_fork)


def call(path: str, region: str, owner_uid: int) -> int:
    """Have a region's creator give its memory; a new descriptor.

    ConnectionRefusedError or FileNotFoundError where nobody is behind the door, PermissionError for a user
    who may not have the region, NotTrusted for a door that is neither the region's owner's nor root's, and
    Conflict for a creator that does not answer.
    """
    for __ in range(_CALLS):
        try:
            answer, fd = _ask(path, owner_uid)
        except socket.timeout:
            raise Conflict(
                f"the owner of region {region} does not answer at {path}; see whether it is stopped"
            ) from None
        except ConnectionError:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), path) from None
        except OSError as error:
            raise type(error)(error.errno, error.strerror, path) from None
        if answer == REFUSED:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if fd is not None:
            return fd
        time.sleep(_CALL_SECONDS)
    raise Conflict(f"the owner of region {region} has been busy for too long at {path}; see who else asks it")


def _ask(path: str, owner_uid: int) -> tuple[bytes, int | None]:
    """Ask once: the answer, and the descriptor where that is GIVEN. ConnectionError where nobody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            with files.socket_at(path) as place:
                connection.connect(place)
        except BlockingIOError:
            # So many ask that not one more can wait at the door.
            return BUSY, None
        if Peer.of(connection).uid not in (0, owner_uid):
            raise files.NotTrusted(path, "a socket of neither root nor the region's owner")
        answer, fds, flags, __ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if answer == GIVEN and len(fds) == 1 and not flags & socket.MSG_CTRUNC:
        return answer, fds[0]
    for fd in fds:
        os.close(fd)
    if answer == GIVEN and not fds and flags & socket.MSG_CTRUNC:
        # The kernel drops what this process has no number left for.
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if answer not in (REFUSED, BUSY):
        raise ConnectionError
    return answer, None
