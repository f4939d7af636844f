# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program mshare-client (preload/src/client.c, which has the same structures): where it is, how it is
started, and what it says.

What there is to map and to touch is its plan: a file in memory that cannot change.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..backends.base import Backend
from ..backends.pieces import Piece
from ..errors import Conflict, Unavailable, sentence
from . import library

VERSION = 2
_HEADER = struct.Struct("=20Q4096s")
_RANGE = struct.Struct("=QQ")
_PIECE = struct.Struct("=QQQQqII")
_REPORT = struct.Struct("=4I8Q")
REPORT_BYTES = _REPORT.size
LAYOUT = f"mshare-client {VERSION} {_HEADER.size} {_RANGE.size} {_PIECE.size} {_REPORT.size}"
_PLAN_FD, _REPORT_FD = 3, 4
# Higher than the numbers that descriptors get in the program: none must be overwritten before it is copied.
_FIRST_FREE_FD = 10
_NOTHING = (1 << 64) - 1
_PATH_BYTES = 4095
# How a generation tells the window of a region, by what its size was set with.
_LOOKUPS = {"ftruncate": 0, "ioctl": 1, "mmap": 2}
_LAYOUT_SECONDS = 10
# What the parent may have handlers for, or ignore.
_DEFAULT_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGCHLD,
)
Range = tuple[int, int]
"""Offset and size in bytes."""


class Task(IntEnum):
    """What the program is for."""

    BE_CLIENT = 0
    TOUCH = 1
    WRITE_PATTERN = 2


class Stage(IntEnum):
    """How far the program is, or where it failed."""

    DONE = 0
    PLAN = 1
    OPEN = 2
    OTHER_FILE = 3
    WINDOW = 4
    ATTACH = 5
    OBJECT = 6
    FILLING = 7
    FAULT = 8


@dataclass(frozen=True)
class Report:
    """What the program says. Times are in nanoseconds."""

    pid: int
    number: int
    stage: Stage
    code: int
    """errno of a failure, the signal of a fault."""
    attach_ns: int
    touch_ns: int
    vm_pte_before_bytes: int
    vm_pte_after_bytes: int
    verified_pages: int
    wrong_pages: int
    filled_bytes: int
    fault_offset: int

    def failure(self, path: str) -> str:
        """Why it could not attach, in a sentence."""
        if self.stage == Stage.OTHER_FILE:
            return f"{path} is another file than the region that was to be attached; start the clients again"
        why = sentence(OSError(self.code, os.strerror(self.code), path))
        what = {Stage.PLAN: "its plan cannot be read", Stage.OBJECT: "an object in it cannot be mapped"}
        return f"{what[self.stage]}: {why}" if self.stage in what else why


def reports(received: bytes) -> list[Report]:
    """What came through the pipe: whole reports, for each is written at once (PIPE_BUF)."""
    return [
        Report(fields[0], fields[1], Stage(fields[2]), *fields[3:])
        for fields in _REPORT.iter_unpack(received)
    ]


@dataclass(frozen=True)
class Site:
    """A region as the program finds it."""

    path: str
    device: int
    inode: int
    window_bytes: int
    address: int | None
    """Where every process must attach; None where each may choose."""
    alignment_bytes: int
    kernel: bool
    """Otherwise it is the simulator's."""
    lookup: int

    @classmethod
    def of(
        cls, backend: Backend, name: str, window_bytes: int, address: int | None, file: os.stat_result
    ) -> Site:
        """`file` is the region's. Raises as `lookup`."""
        where = (window_bytes, address, backend.alignment_bytes, backend.name == "kernel")
        return cls(backend.path(name), file.st_dev, file.st_ino, *where, lookup(backend, name))


def lookup(backend: Backend, name: str) -> int:
    """How the program learns a region's window; Unavailable where it cannot attach a region like this one."""
    path, generation = backend.path(name), backend.generation
    if generation.features.nameless:
        raise Unavailable(
            f"mshare-client opens a region by its path, and one of generation {generation.id} has none"
        )
    # The simulator's files are as large as the window in every generation.
    set_by = generation.features.size_set_by if backend.name == "kernel" else "ftruncate"
    if set_by not in _LOOKUPS or len(os.fsencode(path)) > _PATH_BYTES:
        raise Unavailable(f"mshare-client does not attach regions of generation {generation.id} at {path}")
    return _LOOKUPS[set_by]


@dataclass(frozen=True)
class Written:
    """The owner's pattern (region/pattern.py), as far as it is written or verified."""

    offset: int
    size_bytes: int
    stride_bytes: int
    salt: int


@dataclass(frozen=True)
class Plan:
    """What the program is to attach and to touch."""

    task: Task
    site: Site
    ranges: Sequence[Range]
    stride_bytes: int
    pattern: Written | None = None
    again_offset: int | None = None
    """What a client touches once more when it is asked to."""

    def encode(self, plan_fd: int, pieces: Sequence[Piece] | None) -> bytes:
        """As struct plan in client.c; no pieces, None, for a region that has ended."""
        site, pattern = self.site, self.pattern or Written(0, 0, 0, 0)
        mapped = pieces or []
        header = _HEADER.pack(
            VERSION,
            self.task,
            os.getpid(),
            plan_fd,
            site.kernel,
            site.lookup,
            pieces is None,
            site.device,
            site.inode,
            site.window_bytes,
            site.address or 0,
            site.alignment_bytes,
            self.stride_bytes,
            pattern.offset,
            pattern.size_bytes,
            pattern.stride_bytes,
            pattern.salt,
            _NOTHING if self.again_offset is None else self.again_offset,
            len(self.ranges),
            len(mapped),
            os.fsencode(site.path),
        )
        lines = [_RANGE.pack(*each) for each in self.ranges] + [_encoded(piece) for piece in mapped]
        return header + b"".join(lines)


def _encoded(piece: Piece) -> bytes:
    fd = -1 if piece.fd is None else piece.fd
    place = (piece.serial, piece.offset, piece.size_bytes, piece.object_offset)
    return _PIECE.pack(*place, fd, piece.prot, piece.refused)


class PlanFile:
    """The plan as the program reads it, at one descriptor. A new one takes its place as a whole, so what is
    read is either of them."""

    def __init__(self) -> None:
        # Nothing is to be read of it yet: the number is taken.
        self.fd = self._above(os.memfd_create("mshare-plan", os.MFD_CLOEXEC))

    @staticmethod
    def _above(fd: int) -> int:
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
        finally:
            os.close(fd)

    def store(self, plan: Plan, pieces: Sequence[Piece] | None) -> None:
        new_fd = os.memfd_create("mshare-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            data = plan.encode(self.fd, pieces)
            while data:
                data = data[os.write(new_fd, data) :]
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(new_fd, fcntl.F_ADD_SEALS, seals)
            os.dup2(new_fd, self.fd, inheritable=False)
        finally:
            os.close(new_fd)

    def close(self) -> None:
        os.close(self.fd)


def report_fd(pipe_fd: int) -> int:
    """A copy of a pipe's end that the program can be started with."""
    return fcntl.fcntl(pipe_fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)


def start(
    path: str, words: Iterable[str], environment: Mapping[str, str], plan_fd: int, reports_fd: int
) -> int:
    """Start the program; its pid. OSError where the host has no room for another process."""
    return os.posix_spawn(
        path,
        [library.CLIENT.file_name, *words],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, plan_fd, _PLAN_FD),
            (os.POSIX_SPAWN_DUP2, reports_fd, _REPORT_FD),
        ],
        # It waits for these two; by default they would end it.
        setsigmask=[signal.SIGUSR1, signal.SIGUSR2],
        setsigdef=_DEFAULT_SIGNALS,
    )


def program() -> str:
    """The path of mshare-client: the installed one, else the cached one, which is built if it is missing.

    Unavailable where it cannot be had or cannot run here, or where others could replace it.
    """
    path = library.installed(library.CLIENT)
    if path is None and not library.compilers():
        raise Unavailable(
            f"{library.CLIENT.file_name} is not installed, and this host has no C compiler to build it"
            f" ({', '.join(library.COMPILERS)}); have it installed by the role runtime"
            " (mshare_runtime_preload: true), or install gcc and libc6-dev (glibc-devel)"
        )
    try:
        path = path or library.built(library.own_sources(), library.CLIENT)
        _require_ours(path)
    except Conflict as error:
        raise Unavailable(sentence(error)) from error
    try:
        done = subprocess.run(
            [path, "--layout"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_LAYOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else sentence(error)
        raise Unavailable(
            f"{path} cannot be run ({why}); set MSHARE_CACHE_DIR to a directory on a file system"
            " that is not mounted noexec"
        ) from None
    if done.stdout.strip() != LAYOUT:
        raise Unavailable(f"{path} answers {done.stdout.strip()[:60]!r}, not {LAYOUT!r}; remove it")
    return path


def _require_ours(path: str) -> None:
    """Unavailable for a program that anybody but root and this user can replace or change."""
    part = os.path.realpath(path)
    while True:
        status = os.lstat(part)
        # In a directory like /tmp nobody removes what is another user's.
        shared = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and part != path
        if status.st_uid not in (0, os.geteuid()) or (status.st_mode & 0o022 and not shared):
            raise Unavailable(
                f"{path} is not run, because others may change {part} (uid {status.st_uid}, mode"
                f" {stat.S_IMODE(status.st_mode):04o}); set MSHARE_CACHE_DIR to a directory of this user's"
            )
        if part == "/":
            return
        part = os.path.dirname(part)
