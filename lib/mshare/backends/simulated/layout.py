# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated msharefs on disk, readable with the standard library alone.

    ROOT/mshare_info              the alignment, as on a kernel
    ROOT/NAME                     a sparse file as large as the window: the region's memory
    ROOT/.simulated/layout.json   version, generation, alignment; its lock serializes names
    ROOT/.simulated/NAME.json     what a kernel would keep in memory: size, mappings, owner
    ROOT/.simulated/NAME.bell     a FIFO that wakes the attached processes after a change

A sidecar instead of extended attributes, because tmpfs has those only since Linux 6.6.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ... import record
from ...errors import InvalidRequest, Unavailable
from ...host import procfs
from ...kernel import abi
from ...kernel.generations import GENERATIONS
from ..base import Task
from ..mapping import Mapping

DIRECTORY = ".simulated"
_LAYOUT_VERSION = 1


@dataclass(frozen=True)
class Placed:
    """A mapping as the simulator keeps it."""

    mapping: Mapping
    serial: int
    """Tells a new object from the one it replaced at the same place."""
    device: int = 0
    inode: int = 0
    holder_pid: int = 0
    holder_fd: int = -1
    """Where the process that mapped a file keeps it open, for those who cannot open its path."""


@dataclass(frozen=True)
class Record:
    """A region's sidecar."""

    inode: int
    owner: Task | None
    size_used: bool = False
    """Whether the one time the size can be set is used up."""
    window_bytes: int = 0
    address: int | None = None
    next_serial: int = 1
    placed: list[Placed] = field(default_factory=list)

    def __post_init__(self) -> None:
        # What is mapped at its place in the window must not reach what else a process has there.
        for mapping in (entry.mapping for entry in self.placed):
            if mapping.offset < 0 or mapping.size_bytes <= 0 or mapping.end > self.window_bytes:
                raise InvalidRequest(
                    f"a mapping of {mapping.size_bytes} bytes at offset {mapping.offset} lies outside the"
                    f" window of {self.window_bytes} bytes"
                )

    @property
    def dead(self) -> bool:
        """Whether the owner is gone (never, in a generation without owners)."""
        owner = self.owner
        return owner is not None and not procfs.alive(owner.pid, owner.started_ticks, owner.thread)

    def to_json(self) -> str:
        return json.dumps(self, default=lambda value: value.__dict__)

    @classmethod
    def from_json(cls, text: bytes | str, path: str = "a sidecar") -> Record:
        """Malformed, naming the file and the field, for anything that the simulator does not write."""
        name = os.path.basename(path).rpartition(".")[0]
        return record.parse(cls, text, path, f"`mshare rm {name} --force` ends what is left of the region")


class Sidecar:
    """An open sidecar and its bell. They outlive their names, as an unlinked region outlives its own.

    A FIFO, because the wake-ups of a file (inotify) are limited to 128 processes a user.
    """

    def __init__(self, fd: int, bell_fd: int, name: str) -> None:
        self.fd = fd
        self.bell_fd = bell_fd
        self.name = name
        """The path it had when it was opened."""

    def dup(self) -> Sidecar:
        return Sidecar(os.dup(self.fd), os.dup(self.bell_fd), self.name)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.bell_fd)

    def set_access(self, mode: int, uid: int, gid: int) -> None:
        for fd in (self.fd, self.bell_fd):
            os.fchown(fd, uid, gid)
            os.fchmod(fd, sidecar_mode(mode))

    def _ring(self) -> None:
        """Wake everybody who waits for the bell: a FIFO that was empty becomes readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell_fd, 4096)
        os.write(self.bell_fd, b".")

    @property
    def path(self) -> str:
        """A path that works after unlink, too."""
        return f"/proc/self/fd/{self.fd}"

    @contextlib.contextmanager
    def _locked(self, flags: int, lock: int) -> Iterator[int]:
        # Opened anew each time: flock belongs to the open file, which fork would share.
        fd = os.open(self.path, flags | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, lock)
            yield fd
        finally:
            # Closing would not do: a child forked meanwhile has the same open file.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _load(self, fd: int) -> Record:
        # One line: what a writer killed half-way may leave behind it is never read.
        return Record.from_json(os.pread(fd, os.fstat(fd).st_size, 0).split(b"\n", 1)[0], self.name)

    def read(self) -> Record:
        with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as fd:
            return self._load(fd)

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """Read, let the caller set `.record`, write: one process at a time."""
        with self._locked(os.O_RDWR, fcntl.LOCK_EX) as fd:
            change = Change(self._load(fd))
            before = change.record
            yield change
            if change.record != before:
                self.write(fd, change.record)
                self._ring()

    @staticmethod
    def write(fd: int, changed: Record) -> None:
        data = changed.to_json().encode() + b"\n"
        # On a full tmpfs this fails with the old record whole.
        os.posix_fallocate(fd, 0, len(data))
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))


@dataclass
class Change:
    record: Record


def sidecar_mode(mode: int) -> int:
    """Who may open a region may change what is mapped in it, even read-only, as on a kernel."""
    return mode | (mode & 0o444) >> 1


@dataclass(frozen=True)
class LayoutFile:
    """The text of layout.json."""

    version: int
    generation: str
    alignment_bytes: int

    def __post_init__(self) -> None:
        if self.alignment_bytes <= 0 or self.alignment_bytes % abi.PAGE_BYTES:
            raise InvalidRequest(f"{self.alignment_bytes} bytes are no alignment")


@dataclass(frozen=True)
class Files:
    """The files of a simulated msharefs at a root directory, whatever is in layout.json."""

    root: str

    @staticmethod
    def _file(root: str) -> str:
        return os.path.join(root, DIRECTORY, "layout.json")

    def sidecar_path(self, name: str) -> str:
        return os.path.join(self.root, DIRECTORY, f"{name}.json")

    def bell_path(self, name: str) -> str:
        return os.path.join(self.root, DIRECTORY, f"{name}.bell")

    def sidecar(self, name: str) -> Sidecar:
        """Open a region's sidecar as far as this user may: who may only read cannot change anything."""
        files = (self.sidecar_path(name), self.bell_path(name))
        flags = os.O_RDWR if all(os.access(path, os.W_OK) for path in files) else os.O_RDONLY
        fd, bell_fd = (os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC) for path in files)
        return Sidecar(fd, bell_fd, files[0])

    def create_sidecar(self, name: str, first: Record, mode: int) -> Sidecar:
        """Make the sidecar of a new region file with that mode."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.bell_path(name))
        os.mkfifo(self.bell_path(name), 0o600)
        fd = os.open(self.sidecar_path(name), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            Sidecar.write(fd, first)
            bell_fd = os.open(self.bell_path(name), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(fd)
            raise
        sidecar = Sidecar(fd, bell_fd, self.sidecar_path(name))
        sidecar.set_access(mode, -1, -1)
        return sidecar

    def set_region_access(self, name: str, mode: int, uid: int, gid: int) -> None:
        """Give a region's file, and what belongs to it, another mode, user or group (-1: as it is)."""
        path = os.path.join(self.root, name)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        sidecar = self.sidecar(name)
        sidecar.set_access(mode, uid, gid)
        sidecar.close()

    def unlink(self, name: str) -> None:
        """Remove a region's name and what belongs to it; missing files are fine."""
        for path in (os.path.join(self.root, name), self.sidecar_path(name), self.bell_path(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def free_bytes(self) -> int | None:
        """What the tmpfs may still take; None for one without a limit, which says that it has no blocks."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize if found.f_blocks else None

    @classmethod
    def present(cls, root: str) -> bool:
        return os.path.exists(cls._file(root))

    def unfinished(self) -> bool:
        """Whether there is nothing but what a process left that was killed while it made the layout."""
        try:
            names = set(os.listdir(self.root))
            inside = set(os.listdir(os.path.join(self.root, DIRECTORY))) if DIRECTORY in names else set()
        except OSError:
            return False
        begun = bool(names) and not names - {abi.INFO_FILE, DIRECTORY} and not inside - {"layout.json"}
        return begun and (not inside or os.stat(self._file(self.root)).st_size == 0)

    def set_access(self, mode: int, gid: int = -1) -> None:
        """Give the root its mode and group, and the sidecars' directory the same."""
        for path in (os.path.join(self.root, DIRECTORY), self.root):
            os.chown(path, -1, gid)
            os.chmod(path, mode)

    def remove(self) -> None:
        """Take the layout's own files away from a root without regions (ENOTEMPTY otherwise)."""
        if self.names():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), self.root)
        for path in (self._file(self.root), os.path.join(self.root, abi.INFO_FILE)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(self.root, DIRECTORY))

    def names(self) -> list[str]:
        return sorted(set(os.listdir(self.root)) - {abi.INFO_FILE, DIRECTORY})

    @contextlib.contextmanager
    def names_locked(self, changing: bool) -> Iterator[None]:
        """While names come and go, a region file and its sidecar are seen together or not at all."""
        fd = os.open(self._file(self.root), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if changing else fcntl.LOCK_SH)
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def record(self, name: str) -> Record | None:
        """What is known of a region, without changing anything; None if it is gone or this user may not read
        it, Malformed if it is damaged."""
        try:
            sidecar = self.sidecar(name)
        except OSError:
            return None
        try:
            return sidecar.read()
        finally:
            sidecar.close()


@dataclass(frozen=True)
class Layout(Files):
    """A simulated msharefs at a root directory."""

    generation_id: str
    alignment_bytes: int

    @classmethod
    def read(cls, root: str) -> Layout:
        """Read a root; Unavailable where there is no simulated msharefs, Malformed where it is damaged."""
        path = cls._file(root)
        try:
            with open(path, "rb") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise Unavailable(
                f"{root} holds no simulated msharefs; create one with `mshare mount --backend"
                f" simulated --root {root}` or the module dbmem.mshare.mshare_mount"
            ) from None
        next_step = f"`mshare umount --force --root {root}` ends it with its regions, then mount it again"
        place = record.Place(path, next_step)
        fields = record.load(text, path, next_step)
        version = record.build(_LayoutVersion, fields, place).version
        if version != _LAYOUT_VERSION:
            raise Unavailable(
                f"{root} was laid out by version {version} of the simulator, but this is version"
                f" {_LAYOUT_VERSION}; remove its regions and unmount it, then mount it again"
            )
        found = record.build(LayoutFile, fields, place)
        if found.generation not in GENERATIONS:
            place.inside("generation").refuse(found.generation, "one of " + ", ".join(GENERATIONS))
        return cls(root, found.generation, found.alignment_bytes)

    @classmethod
    def create(
        cls,
        root: str,
        generation_id: str,
        alignment_bytes: int = abi.X86_64_ALIGNMENT_BYTES,
    ) -> Layout:
        """Lay out a root that exists and is empty, but for what a killed process left of doing that."""
        if Files(root).unfinished():
            Files(root).remove()
        os.mkdir(os.path.join(root, DIRECTORY), 0o700)
        layout = LayoutFile(_LAYOUT_VERSION, generation_id, alignment_bytes)
        for path, text in (
            (os.path.join(root, abi.INFO_FILE), f"{alignment_bytes}\n"),
            (cls._file(root), record.to_json(layout) + "\n"),
        ):
            with open(path, "x", encoding="ascii") as file:
                file.write(text)
            os.chmod(path, 0o444)
        return cls(root, generation_id, alignment_bytes)


@dataclass(frozen=True)
class _LayoutVersion:
    version: int


def without(placed: list[Placed], offset: int, end: int) -> list[Placed]:
    """Cut [offset, end) out of a list of mappings; what sticks out on either side stays."""
    kept = []
    for entry in placed:
        for piece in subtract((entry.mapping.offset, entry.mapping.end), [(offset, end)]):
            # Anonymous memory lies in the region file at its own offset; other objects have theirs.
            skipped = 0 if entry.mapping.kind == "anonymous" else piece[0] - entry.mapping.offset
            kept.append(
                replace(
                    entry,
                    mapping=replace(
                        entry.mapping,
                        offset=piece[0],
                        size_bytes=piece[1] - piece[0],
                        object_offset=entry.mapping.object_offset + skipped,
                    ),
                )
            )
    return kept


def subtract(whole: tuple[int, int], parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of the range `whole` without the ranges `parts`."""
    left = [whole]
    for start, end in parts:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, start)), (max(low, end), high))
            if piece[0] < piece[1]
        ]
    return left
