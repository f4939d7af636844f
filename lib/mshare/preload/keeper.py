# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of files' regions: one process for each user and msharefs.

A region dies with the process that made it, and the program that maps a file first may be the first to end.
So programs ask the keeper (preload/src/keeper.c), over a Unix socket that only its user may use: they send
the open file, and get the region's file. Which file it is, and what the program may do with it, the keeper
sees by itself; no name is trusted.

A region shows one part of one file, for reading or for reading and writing. Each program gets a region file
that was opened for it alone, with a shared lock that lasts as long as the program, or a child of it, has the
region mapped. When the keeper gets the lock exclusively, the last user has gone, however it ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import queue
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .. import files, paths
from ..backends.base import Backend, RegionFile
from ..errors import Conflict, InvalidRequest, Unavailable
from ..kernel import abi
from ..kernel.syscalls import NewMapping
from ..services import lock, signals
from ..units import round_up

VERSION = 1
QUESTION = struct.Struct("=IIQQ")
"""version, writable, offset, size; with the file's descriptor. A size of 0 asks whether it is there."""
ANSWER = struct.Struct("=iIQQ232s")
"""errno, version, window, alignment, the region's name or a sentence; with the region's descriptor."""
REGIONS_MAXIMUM = 1024
"""For each region the keeper has a thread that waits for its end, and three open files."""
_IDLE_SECONDS = 60.0
_PATIENCE_SECONDS = 1.0
_START_LOOKS = 1500
_LOOK_SECONDS = 0.02
_PATH_BYTES_MAXIMUM = 107


@dataclass(frozen=True)
class Part:
    """What a region shows: a range of a file, which is found by what it is and not by its name."""

    device: int
    inode: int
    offset: int
    size_bytes: int
    writable: bool


@dataclass(frozen=True)
class Answer:
    code: int
    text: str
    window_bytes: int = 0
    alignment_bytes: int = 0

    def pack(self) -> bytes:
        text = self.text.encode(errors="replace")[:231]
        return ANSWER.pack(self.code, VERSION, self.window_bytes, self.alignment_bytes, text)

    @classmethod
    def unpack(cls, message: bytes) -> Answer:
        """Conflict for the answer of another version."""
        if len(message) != ANSWER.size or ANSWER.unpack(message)[1] != VERSION:
            raise Conflict(
                "the keeper of files that runs is of another version of the library; end it (`mshare"
                " keep-files` names its process) when no program uses its regions any more"
            )
        code, __, window_bytes, alignment_bytes, text = ANSWER.unpack(message)
        return cls(code, text.rstrip(b"\0").decode(errors="replace"), window_bytes, alignment_bytes)


class _Refused(Exception):
    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def socket_path(root: str) -> str:
    """Where the keeper of an msharefs listens; InvalidRequest where no socket can be."""
    path = paths.keeper_socket(root)
    if len(os.fsencode(path)) > _PATH_BYTES_MAXIMUM:
        raise InvalidRequest(
            f"the keeper of files would listen at {path}, which is longer than the {_PATH_BYTES_MAXIMUM}"
            " bytes that the address of a socket has; set MSHARE_STATE_DIR to a shorter path"
        )
    return path


class _Kept:
    """A region, and the thread that waits for the end of its last user."""

    def __init__(self, file: RegionFile, part: Part, window_bytes: int) -> None:
        self.file = file
        self.part = part
        self.window_bytes = window_bytes
        self._watched = self._reopened()

    def _reopened(self) -> int:
        """With locks of its own."""
        return os.open(f"/proc/self/fd/{self.file.fd}", os.O_RDWR | os.O_CLOEXEC)

    def for_a_program(self) -> int | None:
        """The region's file for one more user; None where the last one has gone, and the region goes."""
        fd = self._reopened()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise

    def watch(self, gone: Callable[[_Kept], None]) -> None:
        """Call `gone`, in a thread of its own, when no program has the region any more."""

        def wait() -> None:
            fcntl.flock(self._watched, fcntl.LOCK_EX)
            gone(self)

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        os.close(self._watched)
        self.file.close()


class Keeper:
    """Answers programs until it is told to end, or for a while there has been none that may ask."""

    def __init__(self, backend: Backend, users_fd: int, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._backend = backend
        self._users_fd = users_fd
        self._idle_seconds = idle_seconds
        self._numbers = itertools.count(1)
        self._kept: dict[Part, _Kept] = {}
        self._unused: queue.SimpleQueue[_Kept] = queue.SimpleQueue()
        self._bell, self._ring = os.pipe()
        self._asked = time.monotonic()

    # -- answering

    def serve(self, listener: socket.socket, inbox: int) -> None:
        """From the main thread, which the regions belong to. SIGTERM and SIGINT, which come through `inbox`,
        end it as soon as no program has a region any more, for a program would die with its region; the
        second one ends it at once."""
        told = 0
        while told < 2 and not (self._is_idle() or (told and not self._kept)):
            wanted = [inbox, self._bell, *([] if told else [listener.fileno()])]
            ready, __, __ = select.select(wanted, [], [], self._idle_seconds)
            if inbox in ready:
                told += len(os.read(inbox, 4096))
                # Programs that ask from now on need not wait to learn that nobody answers.
                listener.close()
            if self._bell in ready:
                os.read(self._bell, 4096)
                self._end_unused()
            if not told and listener.fileno() in ready:
                self._answer_one(listener)
        for kept in list(self._kept.values()):
            self._end(kept)

    def _is_idle(self) -> bool:
        if self._kept or time.monotonic() - self._asked < self._idle_seconds:
            return False
        # Each program that was started with this keeper holds a shared lock as long as it lives.
        try:
            fcntl.flock(self._users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._users_fd, fcntl.LOCK_UN)
        return True

    def _answer_one(self, listener: socket.socket) -> None:
        self._asked = time.monotonic()
        # A program that is killed meanwhile, or means no good, only misses its answer.
        with contextlib.suppress(OSError), listener.accept()[0] as program:
            program.settimeout(_PATIENCE_SECONDS)
            message, fds, __, __ = socket.recv_fds(program, QUESTION.size, 1, socket.MSG_CMSG_CLOEXEC)
            try:
                answer, region_fd = self.answer(program, message, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            try:
                socket.send_fds(program, [answer.pack()], [] if region_fd is None else [region_fd])
            finally:
                if region_fd is not None:
                    os.close(region_fd)

    def answer(self, program: socket.socket, message: bytes, fds: list[int]) -> tuple[Answer, int | None]:
        """The answer to a question, and the region's descriptor that goes with it, which is the caller's to
        close."""
        try:
            return self._region_for(program, message, fds)
        except _Refused as error:
            return Answer(error.code, str(error)), None
        except OSError as error:
            code = error.errno or errno.EIO
            sentence = f"the keeper cannot make a region of it ({os.strerror(code)}); see `mshare info`"
            return Answer(code, sentence), None

    def _region_for(
        self, program: socket.socket, message: bytes, fds: list[int]
    ) -> tuple[Answer, int | None]:
        __, uid, __ = struct.unpack("3i", program.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            raise _Refused(errno.EACCES, f"the keeper is for programs of uid {os.geteuid()}")
        if len(message) != QUESTION.size or QUESTION.unpack(message)[0] != VERSION:
            raise _Refused(errno.EPROTO, "the keeper is of another version; start it again")
        __, writable, offset, size_bytes = QUESTION.unpack(message)
        if not size_bytes:
            return Answer(0, str(os.getpid())), None
        if len(fds) != 1 or size_bytes % abi.PAGE_BYTES or offset % abi.PAGE_BYTES:
            raise _Refused(errno.EINVAL, "the keeper was asked for no part of a file")
        own = _opened(fds[0], bool(writable))
        try:
            status = os.fstat(own)
            part = Part(status.st_dev, status.st_ino, offset, size_bytes, bool(writable))
            kept, fd = self._user_of(part, own)
        finally:
            os.close(own)
        return Answer(0, kept.file.name, kept.window_bytes, self._backend.alignment_bytes), fd

    # -- regions

    def _user_of(self, part: Part, object_fd: int) -> tuple[_Kept, int]:
        kept = self._kept.get(part)
        fd = None if kept is None else kept.for_a_program()
        if kept is not None and fd is not None:
            return kept, fd
        if kept is not None:
            # Its last user has just gone: the file may have been replaced, so nothing of it is used again.
            self._end(kept)
        if len(self._kept) >= REGIONS_MAXIMUM:
            raise _Refused(
                errno.ENOMEM, f"the keeper has {REGIONS_MAXIMUM} regions already, which is the maximum"
            )
        kept = self._create(part, object_fd)
        try:
            fd = kept.for_a_program()
            if fd is None:
                raise _Refused(errno.EBUSY, f"another process keeps region {kept.file.name} locked")
            kept.watch(self._is_unused)
        except BaseException:
            self._end(kept)
            raise
        return kept, fd

    def _create(self, part: Part, object_fd: int) -> _Kept:
        name = f"files.{os.getpid()}.{next(self._numbers)}"
        window_bytes = round_up(part.size_bytes, self._backend.alignment_bytes)
        prot = abi.PROT_READ | (abi.PROT_WRITE if part.writable else 0)
        flags = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_FIXED_NOREPLACE
        file = self._backend.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            file.set_size(window_bytes)
            file.create_mapping(NewMapping(0, part.size_bytes, prot, flags, object_fd, part.offset))
            kept = _Kept(file, part, window_bytes)
        except BaseException:
            self._backend.unlink(name)
            file.close()
            raise
        self._kept[part] = kept
        return kept

    def _end_unused(self) -> None:
        """Remove the regions whose last user has gone."""
        while not self._unused.empty():
            kept = self._unused.get()
            if self._kept.get(kept.part) is kept:
                self._end(kept)

    def _is_unused(self, kept: _Kept) -> None:
        self._unused.put(kept)
        os.write(self._ring, b".")

    def _end(self, kept: _Kept) -> None:
        del self._kept[kept.part]
        with contextlib.suppress(OSError):
            # The file itself is let go at once, for somebody may want to unmount its file system.
            kept.file.unmap(0, kept.part.size_bytes)
        with contextlib.suppress(OSError):
            self._backend.unlink(kept.file.name)
        kept.close()


def _opened(fd: int, writable: bool) -> int:
    """The file behind a program's descriptor, opened by the keeper itself.

    The program must have it open for what it asks. And as every program of this user may get at a region of
    this user, the keeper, which has no more rights than they, must be able to open it, too: a file that a
    service opened as root, before it became this user, stays that process's own.
    """
    status = os.fstat(fd)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = flags & os.O_ACCMODE
    if not stat.S_ISREG(status.st_mode):
        raise _Refused(errno.EINVAL, "it is not a regular file")
    if flags & os.O_PATH or access == os.O_WRONLY or (writable and access != os.O_RDWR):
        raise _Refused(errno.EACCES, "the program has not opened it for that")
    try:
        place = os.open(os.readlink(f"/proc/self/fd/{fd}"), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # What has that name is looked at before it is opened: it may be anything by now.
            if not os.path.samestat(os.fstat(place), status):
                raise _Refused(errno.ESTALE, "under its name there is another file by now")
            mode = os.O_RDWR if writable else os.O_RDONLY
            return os.open(f"/proc/self/fd/{place}", mode | os.O_CLOEXEC)
        finally:
            os.close(place)
    except OSError as error:
        code = error.errno or errno.EIO
        reason = f"the keeper cannot open it ({os.strerror(code)}), so it stays this program's own"
        raise _Refused(code, reason) from None


def _raise_limits() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # A thread only waits.
    threading.stack_size(64 << 10)


@contextlib.contextmanager
def _listening(path: str) -> Iterator[tuple[socket.socket, int]]:
    """The one keeper's socket, and the file that programs hold a lock of; its own lock is held as long."""
    files.make_directory(os.path.dirname(path))
    with lock.locked(f"{path}.lock", "the keeper of files"), contextlib.ExitStack() as ends:
        files.remove(path)
        # Programs of a keeper that was killed still hold its lock.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        users_fd = os.open(f"{path}.users", flags, 0o600)
        ends.callback(os.close, users_fd)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            before = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            listener.listen(4096)
            try:
                yield listener, users_fd
            finally:
                files.remove(path, f"{path}.users", f"{path}.lock")
                files.remove_empty(os.path.dirname(path))


def _clear_away(backend: Backend) -> None:
    """Remove what a keeper that was killed has left: names of regions that no program can attach any more,
    and what it was just making or removing."""
    backend.clear_away(_is_a_keepers)
    for name in filter(_is_a_keepers, backend.names()):
        with contextlib.suppress(OSError):
            if os.stat(backend.path(name)).st_uid == os.geteuid() and _is_dead(backend, name):
                backend.unlink(name)


def _is_a_keepers(name: str) -> bool:
    prefix, __, rest = name.partition(".")
    return prefix == "files" and rest.partition(".")[0].isdigit()


def _is_dead(backend: Backend, name: str) -> bool:
    """Whether a region's maker has gone, or went half-way. Another keeper may live: one with another state
    directory, or in another pid namespace."""
    file = backend.open(name, os.O_RDWR)
    try:
        file.attach(file.geometry().window_bytes, abi.PROT_READ).detach()
        return False
    except OSError as error:
        # The test double of a kernel's cannot refuse as a kernel does.
        return error.errno in (errno.EINVAL, errno.ENODEV)
    finally:
        file.close()


def run(backend: Backend, on_ready: Callable[[str], None], idle_seconds: float = _IDLE_SECONDS) -> None:
    """Be the keeper, in the foreground. Conflict if this user has one there already."""
    require_files(backend)
    path = socket_path(backend.root)
    _raise_limits()
    # Whoever is told that it is ready may end it at once, and it is to leave nothing then.
    inbox = signals.inbox()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *__: None)
    with _listening(path) as (listener, users_fd):
        _clear_away(backend)
        on_ready(path)
        Keeper(backend, users_fd, idle_seconds).serve(listener, inbox)


def require_files(backend: Backend) -> None:
    """Unavailable for a generation that has no files in regions, or no region that a program can open."""
    if backend.generation.features.nameless:
        raise Unavailable(
            f"regions of generation {backend.generation.id} at {backend.root} have no path at which a program"
            " could open them; use `mshare mount --backend simulated --generation 2025-08`"
        )
    if "file" not in backend.generation.features.mapping_kinds:
        raise Unavailable(
            f"regions of generation {backend.generation.id} at {backend.root} take no files; a kernel with"
            " generation 2025-08 does, and `mshare mount --backend simulated --generation 2025-08`"
        )


def ask(path: str) -> int | None:
    """The pid of the keeper that listens there; None where none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
        keeper.settimeout(10)
        try:
            keeper.connect(path)
            keeper.send(QUESTION.pack(VERSION, 0, 0, 0))
            return int(Answer.unpack(keeper.recv(ANSWER.size)).text)
        except (OSError, ValueError):
            return None


def ensure(root: str, argv: Sequence[str]) -> str:
    """The socket of the keeper for an msharefs; `argv` starts one, in a session of its own, if none runs."""
    path = socket_path(root)
    if ask(path) is not None:
        return path
    output = _start(argv)
    text = b""
    try:
        for __ in range(_START_LOOKS):
            if ask(path) is not None:
                return path
            if select.select([output], [], [], _LOOK_SECONDS)[0]:
                part = os.read(output, 4096)
                text += part
                if not part:
                    break
        # Another command may have started one at the same time.
        if ask(path) is not None:
            return path
    finally:
        os.close(output)
    lines = text.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else "without a message"
    raise Unavailable(f"the keeper of files did not start ({reason}); start it with `mshare keep-files`")


def _start(argv: Sequence[str]) -> int:
    """Start a keeper that is no child of this process, which becomes the program; what it prints, until it
    ends."""
    reader, writer = os.pipe()
    between = os.fork()
    if not between:
        with contextlib.suppress(OSError):
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True, cwd="/"
            )
        os._exit(0)
    os.close(writer)
    os.waitpid(between, 0)
    return reader
