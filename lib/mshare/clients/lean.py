# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lean clients: the program mshare-client, of preload/src/client.c, which has the same structures.

Each opens and maps the region by itself. What there is to map and to touch is the plan: a file in memory that
cannot change, which they have open. When the region changes, a new plan takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import struct
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from ..backends.pieces import Piece, Pieces
from ..errors import Conflict, Unavailable, sentence
from ..preload import library
from . import client
from .client import Report, Target, Touched
from .fault import ranges
from .spec import CLIENT_BYTES
from .status import Kind

VERSION = 1
_HEADER = struct.Struct("=19Q4096s")
_RANGE = struct.Struct("=QQ")
_PIECE = struct.Struct("=QQQQqII")
_REPORT = struct.Struct("=4I6Q")
LAYOUT = f"mshare-client {VERSION} {_HEADER.size} {_RANGE.size} {_PIECE.size} {_REPORT.size}"
_PLAN_FD, _REPORT_FD = 3, 4
# Higher than the numbers that descriptors get in a client: none must be overwritten before it is copied.
_FIRST_FREE_FD = 10
_NOTHING = (1 << 64) - 1
_PATH_BYTES = 4095
# How a generation tells the window of a region, by what its size was set with.
_LOOKUPS = {"ftruncate": 0, "ioctl": 1, "mmap": 2}
_LAYOUT_SECONDS = 10


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


class Lean:
    kind: Kind = "lean"
    why = None
    client_bytes = CLIENT_BYTES["lean"]

    def __init__(self, path: str, target: Target, report_fd: int) -> None:
        """Unavailable where such clients cannot attach a region like this one."""
        generation = target.backend.generation
        if generation.features.nameless:
            raise Unavailable(
                f"lean clients open a region by its path, and one of generation {generation.id} has none"
            )
        lookup = _LOOKUPS.get(generation.features.size_set_by)
        if lookup is None or len(os.fsencode(target.path)) > _PATH_BYTES:
            raise Unavailable(
                f"lean clients do not attach regions of generation {generation.id} at {target.path}"
            )
        # The simulator's files are as large as the window in every generation.
        self._lookup = lookup if target.backend.name == "kernel" else _LOOKUPS["ftruncate"]
        self._path = path
        # A copy: every start would decode each variable.
        self._environment = dict(os.environ)
        self._report_fd = fcntl.fcntl(report_fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
        self._plan_fd: int | None = None
        self._pieces: Pieces | None = None
        self._planned: _Planned | None = None

    @property
    def changes(self) -> int | None:
        return None if self._pieces is None else self._pieces.bell

    def prepare(self, target: Target, span_bytes: int, stride_bytes: int) -> None:
        if self._pieces is not None:
            self._pieces.close()
        file = target.backend.open(target.name, os.O_RDONLY)
        try:
            self._pieces = file.pieces()
            status = os.fstat(file.fd)
        finally:
            file.close()
        self._planned = _Planned(target, span_bytes, stride_bytes, status.st_dev, status.st_ino)
        self._write()

    def _write(self) -> None:
        """Put a new plan in the place of the last, whole: who opens it has either."""
        assert self._planned is not None, "it was prepared"
        new_fd = os.memfd_create("mshare-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            if self._plan_fd is None:
                self._plan_fd = fcntl.fcntl(new_fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
            pieces = [] if self._pieces is None else self._pieces.current()
            data = self._planned.encode(self._lookup, self._plan_fd, pieces)
            while data:
                data = data[os.write(new_fd, data) :]
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(new_fd, fcntl.F_ADD_SEALS, seals)
            os.dup2(new_fd, self._plan_fd, inheritable=False)
        finally:
            os.close(new_fd)

    def start(self, number: int) -> int:
        assert self._planned is not None, "it was prepared"
        assert self._plan_fd is not None, "it was prepared"
        return os.posix_spawn(
            self._path,
            [library.CLIENT.file_name, str(number), self._planned.target.name],
            self._environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, self._plan_fd, _PLAN_FD),
                (os.POSIX_SPAWN_DUP2, self._report_fd, _REPORT_FD),
            ],
            # It waits for these two; by default they would end it.
            setsigmask=[signal.SIGUSR1, signal.SIGUSR2],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, *client.CAUGHT],
        )

    def reports(self, received: bytes) -> list[Report]:
        return [self._report(fields) for fields in _REPORT.iter_unpack(received)]

    def _report(self, fields: tuple[int, ...]) -> Report:
        pid, number, stage, code, attach_ns, touch_ns, before, after, verified, wrong = fields
        if stage:
            assert self._planned is not None, "it was prepared"
            return Report(pid, number, error=_failure(stage, code, self._planned.target.path))
        touched = Touched(attach_ns // 1000, touch_ns // 1000, before, after, verified, wrong)
        return Report(pid, number, touched=touched)

    def tell(self, pids: Collection[int]) -> None:
        if self._pieces is None:
            return
        self._pieces.heard()
        self._write()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)


_STAGES = {1: "its plan cannot be read", 6: "an object in it cannot be mapped"}
_OTHER_FILE = 3


def _failure(stage: int, code: int, path: str) -> str:
    """What a client tells by a stage (enum stage in client.c) and errno, in a sentence."""
    if stage == _OTHER_FILE:
        return f"{path} is another file than the region that was to be attached; start the clients again"
    why = sentence(OSError(code, os.strerror(code), path))
    return f"{_STAGES[stage]}: {why}" if stage in _STAGES else why


@dataclass(frozen=True)
class _Planned:
    """What clients are to attach and to touch."""

    target: Target
    span_bytes: int
    stride_bytes: int
    device: int
    inode: int

    def encode(self, lookup: int, plan_fd: int, pieces: list[Piece] | None) -> bytes:
        """As struct plan in client.c; no pieces, None, for a region that has ended."""
        target = self.target
        touching = list(ranges(target.mappings, self.span_bytes))
        pattern = self._pattern()
        mapped = pieces or []
        again = target.mappings[0].offset if target.mappings else _NOTHING
        header = _HEADER.pack(
            VERSION,
            os.getpid(),
            plan_fd,
            target.backend.name == "kernel",
            lookup,
            pieces is None,
            self.device,
            self.inode,
            target.window_bytes,
            target.address or 0,
            target.backend.alignment_bytes,
            self.stride_bytes,
            *pattern,
            again,
            len(touching),
            len(mapped),
            os.fsencode(target.path),
        )
        lines = [_RANGE.pack(*each) for each in touching] + [_encoded(piece) for piece in mapped]
        return header + b"".join(lines)

    def _pattern(self) -> tuple[int, int, int, int]:
        """Offset, size of what is verified, stride and salt of the owner's pattern; zeroes: none."""
        pattern = self.target.pattern
        for offset, size_bytes in ranges(self.target.mappings, self.span_bytes):
            if pattern is not None and pattern.offset == offset:
                verified_bytes = min(size_bytes, pattern.span_bytes)
                return offset, verified_bytes, pattern.stride_bytes, pattern.salt
        return 0, 0, 0, 0


def _encoded(piece: Piece) -> bytes:
    fd = -1 if piece.fd is None else piece.fd
    place = (piece.serial, piece.offset, piece.size_bytes, piece.object_offset)
    return _PIECE.pack(*place, fd, piece.prot, piece.refused)
