# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated msharefs on disk, readable with the standard library alone.

    ROOT/mshare_info              the alignment, as on a kernel
    ROOT/NAME                     a sparse file as large as the window: the region's memory
    ROOT/.simulated/layout.json   version, generation, alignment; its lock serializes names
    ROOT/.simulated/NAME.json     what a kernel would keep in memory: size, mappings, owner
    ROOT/.simulated/NAME.bell     a FIFO that wakes the attached processes after a change
    ROOT/.simulated/NAME.door     in a generation without region files: the socket at which the creator gives
                                  out the region's memory, which has no name; ROOT/NAME is empty then
    ROOT/DIRECTORY/NAME           a region in a directory, with ROOT/DIRECTORY/.simulated/NAME.json and .bell

A directory has its own `.simulated`, with its group and mode: who may make regions in the one may make their
sidecars in the other, and nobody else. Its lock serializes the directory's names.

A sidecar instead of extended attributes, because tmpfs has those only since Linux 6.6. Whoever may create
regions may write to both directories: their files are opened as `files` does it, no link is followed, and
no lock is waited for without end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ... import files, paths, record
from ...errors import Conflict, InvalidRequest, Unavailable
from ...host import procfs
from ...kernel import abi
from ...kernel.generations import PLAYED
from ...services import lock
from ..mapping import Mapping

DIRECTORY = ".simulated"
_LAYOUT_VERSION = 1
_BESIDE = (".json", ".bell", ".door")
_LOCK_LOOKS = 20
_NAME_LOOKS = 250
_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Task:
    """A thread, named so that a reused pid is not taken for it."""

    pid: int
    thread: int
    started_ticks: int


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
    prot_maximum: int = abi.PROT_ALL
    """What its protection may be changed to: no more than the file was open for."""
    advice: int = 0
    """MADV_HUGEPAGE or MADV_NOHUGEPAGE, where that was advised."""
    dropped: int = 0
    """How often its page tables were to be dropped: a change has every process map it anew."""


@dataclass(frozen=True)
class Memory:
    """A file without a name."""

    device: int
    inode: int

    @classmethod
    def of(cls, fd: int) -> Memory:
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino)


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
    memory: Memory | None = None
    """Where the memory is, in a generation without region files."""
    ended: bool = False
    """Whether the creator closed it, in such a generation."""

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
        """Whether the owner is gone (never, in a generation without owners), or closed the region."""
        owner = self.owner
        gone = owner is not None and not procfs.alive(owner.pid, owner.started_ticks, owner.thread)
        return self.ended or gone

    def to_json(self) -> str:
        return json.dumps(self, default=lambda value: value.__dict__)

    @classmethod
    def from_json(cls, text: bytes | str, path: str = "a sidecar", name: str = "NAME") -> Record:
        """Malformed, naming the file and the field, for anything that the simulator does not write."""
        return record.parse(cls, text, path, end_it(name))


def end_it(name: str) -> str:
    """What to do about a region of which a file is damaged, or is no file of ours."""
    return f"`mshare rm {name} --force` ends what is left of the region"


@contextlib.contextmanager
def file_of(name: str) -> Iterator[None]:
    """A file that is not what it should be is one of a region's, for the sentence."""
    try:
        yield
    except files.NotTrusted as error:
        raise error.then(end_it(name)) from None


class Sidecar:
    """An open sidecar and its bell. They outlive their names, as an unlinked region outlives its own.

    A FIFO, because the wake-ups of a file (inotify) are limited to 128 processes a user.
    """

    def __init__(self, fd: int, bell_fd: int, name: str, region: str) -> None:
        self.fd = fd
        self.bell_fd = bell_fd
        self.name = name
        """The path it had when it was opened."""
        self.region = region
        """Whose it is."""

    def dup(self) -> Sidecar:
        return Sidecar(os.dup(self.fd), os.dup(self.bell_fd), self.name, self.region)

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
    def _reopened(self, flags: int) -> Iterator[int]:
        # Opened again each time: flock belongs to the open file, which fork would share.
        fd = os.open(self.path, flags | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _parse(self, content: bytes) -> Record:
        # One line: what a writer killed half-way may leave behind it is never read.
        return Record.from_json(content.split(b"\n", 1)[0], self.name, self.region)

    def read(self) -> Record:
        """Its content. No process can keep a reader waiting: if another process holds the lock, it is read
        without."""
        with self._reopened(os.O_RDONLY) as fd:
            if not lock.try_shared(fd, _LOCK_LOOKS):
                return self._parse(_settled(fd))
            try:
                return self._parse(_content(fd))
            finally:
                # Closing would not do: a child forked meanwhile has the same open file.
                fcntl.flock(fd, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """Read, let the caller set `.record`, write: one process at a time.

        Conflict, with the name of the process, where another keeps holding the lock.
        """
        with self._reopened(os.O_RDWR) as fd, lock.held(fd, self.name):
            change = Change(self._parse(_content(fd)))
            before = change.record
            yield change
            if change.record != before:
                self.write(fd, change.record)
                self._ring()

    @staticmethod
    def write(fd: int, changed: Record) -> None:
        data = _line(changed)
        # On a full tmpfs this fails with the old record whole.
        os.posix_fallocate(fd, 0, len(data))
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))


def _line(changed: Record) -> bytes:
    return changed.to_json().encode() + b"\n"


def _content(fd: int) -> bytes:
    return os.pread(fd, min(os.fstat(fd).st_size, files.LIMIT_BYTES), 0)


def _settled(fd: int) -> bytes:
    """A sidecar's content, read without its lock: a whole line, and the same twice."""
    before = b""
    for __ in range(_LOCK_LOOKS):
        content = _content(fd)
        if content == before and content.endswith(b"\n"):
            break
        before = content
        time.sleep(_POLL_SECONDS)
    return content


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
            raise InvalidRequest(f"{self.alignment_bytes} bytes are not a valid alignment")


@dataclass(frozen=True)
class Files:
    """The files of a simulated msharefs at a root directory, whatever is in layout.json."""

    root: str

    @staticmethod
    def _file(root: str) -> str:
        return os.path.join(root, DIRECTORY, "layout.json")

    def _beside(self, directory: str) -> str:
        """Where the sidecars of a directory's regions are; of the root's for ""."""
        return os.path.join(self.root, directory, DIRECTORY)

    def sidecar_path(self, name: str) -> str:
        directory, base = os.path.split(name)
        return os.path.join(self._beside(directory), f"{base}.json")

    def bell_path(self, name: str) -> str:
        directory, base = os.path.split(name)
        return os.path.join(self._beside(directory), f"{base}.bell")

    def door_path(self, name: str) -> str:
        directory, base = os.path.split(name)
        return os.path.join(self._beside(directory), f"{base}.door")

    def sidecar(self, name: str) -> Sidecar:
        """Open a region's sidecar as far as this user may: who may only read cannot change anything."""
        try:
            return self._sidecar(name, os.O_RDWR)
        except PermissionError:
            return self._sidecar(name, os.O_RDONLY)

    def _sidecar(self, name: str, flags: int) -> Sidecar:
        path = self.sidecar_path(name)
        with file_of(name):
            fd = files.open_file(path, flags)
            try:
                return Sidecar(fd, files.open_file(self.bell_path(name), flags, stat.S_IFIFO), path, name)
            except BaseException:
                os.close(fd)
                raise

    def sidecar_of(self, name: str, region_fd: int) -> Sidecar:
        """The sidecar of a region file that is open. One that is being made or removed is looked at again:
        names come and go under a lock that a reader does not take, for others could hold it.

        OSError (ENOENT) where there is none, Malformed for one that is damaged, NotTrusted for one that
        belongs to another file.
        """
        inode = os.fstat(region_fd).st_ino
        for looks_left in range(_NAME_LOOKS, -1, -1):
            try:
                sidecar = self.sidecar(name)
                try:
                    if sidecar.read().inode == inode:
                        return sidecar
                except BaseException:
                    sidecar.close()
                    raise
                sidecar.close()
            except (FileNotFoundError, record.Malformed):
                if not looks_left or not os.fstat(region_fd).st_nlink:
                    raise
            time.sleep(_POLL_SECONDS)
        raise files.NotTrusted(
            self.sidecar_path(name), "not the record of the region's file", next_step=end_it(name)
        )

    def create_sidecar(self, name: str, first: Record, mode: int) -> Sidecar:
        """Make the sidecar of a new region file with that mode."""
        bell_fd = files.make_fifo(self.bell_path(name), sidecar_mode(mode))
        try:
            path = self.sidecar_path(name)
            files.write_bytes(path, _line(first), files.Access(sidecar_mode(mode)), durable=False)
            return Sidecar(files.open_file(path, os.O_RDWR), bell_fd, path, name)
        except BaseException:
            os.close(bell_fd)
            raise

    def set_region_access(self, name: str, mode: int, uid: int, gid: int) -> None:
        """Give a region's file, and what belongs to it, another mode, user or group (-1: as it is)."""
        region = self.record(name)
        inode = None if region is None else region.inode
        with file_of(name):
            files.set_access(os.path.join(self.root, name), files.Access(mode, uid, gid), inode)
        sidecar = self.sidecar(name)
        sidecar.set_access(mode, uid, gid)
        sidecar.close()
        if region is not None and region.memory is not None:
            # The creator gives its memory the same access when somebody comes for it. Beside a name that a
            # killed one left there may be no door.
            with contextlib.suppress(FileNotFoundError):
                self.set_door_access(name, mode, uid, gid)

    def set_door_access(self, name: str, mode: int, uid: int, gid: int) -> None:
        """Let those come to a region's door who may open the region: connecting takes the right to write."""
        access = files.Access(sidecar_mode(mode), uid, gid)
        with file_of(name):
            files.set_access(self.door_path(name), access, kind_bits=stat.S_IFSOCK)

    def unlink(self, name: str) -> None:
        """Remove a region's name and what belongs to it; missing files are fine."""
        files.remove(
            os.path.join(self.root, name),
            self.sidecar_path(name),
            self.bell_path(name),
            self.door_path(name),
        )

    def clear_away(self, is_mine: Callable[[str], bool]) -> None:
        """Remove what is left of regions in the root itself that have a name and no sidecar, or something
        beside and no name: who made or removed them was killed. Only this user's, with such names."""
        parts: dict[str, list[str]] = {}
        for entry in os.listdir(self.root):
            parts.setdefault(files.final_name(entry), []).append(os.path.join(self.root, entry))
        for entry in os.listdir(self._beside("")):
            name, suffix = os.path.splitext(files.final_name(entry))
            if suffix in _BESIDE:
                parts.setdefault(name, []).append(os.path.join(self._beside(""), entry))
        for name in sorted(filter(is_mine, parts)):
            # Who makes a region has this lock until it is whole, and who removes one until it is gone.
            with contextlib.suppress(OSError, Conflict), self.names_locked(name):
                whole = all(map(os.path.lexists, (os.path.join(self.root, name), self.sidecar_path(name))))
                if not whole and all(map(_is_own, parts[name])):
                    self.unlink(name)

    def free_bytes(self) -> int | None:
        """How much more the tmpfs may take; None without a limit, when it reports zero blocks."""
        filesystem = os.statvfs(self.root)
        return filesystem.f_bavail * filesystem.f_frsize if filesystem.f_blocks else None

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
        parts = {abi.INFO_FILE, DIRECTORY}
        begun = bool(names) and all(
            name in parts or files.is_left_over(name, abi.INFO_FILE) for name in names
        )
        inside = {name for name in inside if not files.is_left_over(name, "layout.json")}
        if not begun or inside - {"layout.json"}:
            return False
        return not inside or os.stat(self._file(self.root), follow_symlinks=False).st_size == 0

    def set_access(self, mode: int, gid: int = -1) -> None:
        """Give the root its mode and group, and the sidecars' directory the same."""
        for path in (os.path.join(self.root, DIRECTORY), self.root):
            files.set_access(path, files.Access(mode, gid=gid))

    def remove(self) -> None:
        """Take the layout's own files away from a root without regions (ENOTEMPTY otherwise)."""
        if self.names():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), self.root)
        for directory in reversed(self.directories()):
            self.remove_directory(directory)
        files.sweep(os.path.join(self.root, DIRECTORY, "door"))
        for path in (self._file(self.root), os.path.join(self.root, abi.INFO_FILE)):
            files.remove(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(self.root, DIRECTORY))

    def names(self) -> list[str]:
        """The regions, sorted: all but the layout's own files and what a killed process left of those."""
        return sorted(
            name
            for name, is_directory in self._walk()
            if not is_directory and name != abi.INFO_FILE and not files.is_left_over(name, abi.INFO_FILE)
        )

    def directories(self) -> list[str]:
        """The directories of regions, sorted: each after the one it is in."""
        return sorted(name for name, is_directory in self._walk() if is_directory)

    def _walk(self) -> Iterator[tuple[str, bool]]:
        return files.walk(self.root, paths.DIRECTORIES_MAXIMUM, DIRECTORY)

    @contextlib.contextmanager
    def names_locked(self, name: str) -> Iterator[None]:
        """Names of one directory come and go one at a time. Conflict, with a name, where another process
        keeps the lock."""
        directory = os.path.dirname(name)
        fd = (
            self._open_beside(directory) if directory else files.open_file(self._file(self.root), os.O_RDONLY)
        )
        try:
            with lock.held(fd, f"the msharefs at {os.path.join(self.root, directory).rstrip('/')}"):
                yield
        finally:
            os.close(fd)

    def _open_beside(self, directory: str) -> int:
        """Open where a directory's sidecars are. A directory that was made by other means, as anybody may on
        a kernel's msharefs, gets that place now."""
        path = self._beside(directory)
        try:
            return files.open_directory(path)
        except FileNotFoundError:
            above = files.status(os.path.dirname(path))
            with contextlib.suppress(FileExistsError):
                files.make_shared_directory(path, files.Access(stat.S_IMODE(above.st_mode), gid=above.st_gid))
            return files.open_directory(path)

    def make_directory(self, name: str, access: files.Access) -> None:
        """Make a directory for regions; OSError as mkdir(2) does."""
        path = os.path.join(self.root, name)
        files.make_shared_directory(path, access)
        try:
            files.make_shared_directory(self._beside(name), access)
        except BaseException:
            files.rmdir(path)
            raise

    def set_directory_access(self, name: str, access: files.Access) -> None:
        """Give a directory, and the one of its sidecars, another mode and group."""
        files.set_directory_access(os.path.join(self.root, name), access)
        os.close(self._open_beside(name))
        files.set_directory_access(self._beside(name), access)

    def remove_directory(self, name: str) -> None:
        """Remove a directory without regions (OSError with ENOTEMPTY otherwise), and the sidecars that killed
        processes left there."""
        path, beside = os.path.join(self.root, name), self._beside(name)
        if any(not is_directory or inner != DIRECTORY for inner, is_directory in files.walk(path, 0, "")):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        with contextlib.suppress(FileNotFoundError):
            files.sweep(os.path.join(beside, "door"))
            for entry in sorted(files.final_names(beside)):
                if entry.endswith(_BESIDE):
                    files.remove(os.path.join(beside, entry))
            files.rmdir(beside)
        files.rmdir(path)

    def record(self, name: str) -> Record | None:
        """What is known of a region, without changing anything; None if it is gone or this user may not read
        it, Malformed if it is damaged."""
        try:
            sidecar = self.sidecar(name)
        except (OSError, files.NotTrusted):
            return None
        try:
            return sidecar.read()
        finally:
            sidecar.close()


def _is_own(path: str) -> bool:
    """Whether a file is this user's, or is gone by now."""
    try:
        return files.status(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return True


@dataclass(frozen=True)
class Layout(Files):
    """A simulated msharefs at a root directory."""

    generation_id: str
    alignment_bytes: int

    @classmethod
    def read(cls, root: str) -> Layout:
        """Read a root; Unavailable where there is no simulated msharefs, Malformed where it is damaged."""
        path = cls._file(root)
        text = files.read_bytes(path)
        if text is None:
            raise Unavailable(
                f"{root} holds no simulated msharefs; create one with `mshare mount --backend"
                f" simulated --root {root}` or the module dbmem.mshare.mshare_mount"
            )
        next_step = f"`mshare umount --force --root {root}` ends it with its regions, then mount it again"
        place = record.Place(path, next_step)
        fields = record.load(text, path, next_step)
        version = record.build(_LayoutVersion, fields, place).version
        if version != _LAYOUT_VERSION:
            raise Unavailable(
                f"{root} was laid out by version {version} of the simulator, but this is version"
                f" {_LAYOUT_VERSION}; remove its regions and unmount it, then mount it again"
            )
        layout = record.build(LayoutFile, fields, place)
        if layout.generation not in PLAYED:
            place.inside("generation").refuse(layout.generation, "one of " + ", ".join(PLAYED))
        return cls(root, layout.generation, layout.alignment_bytes)

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
            # Last: it is what tells a root that is whole from one that is not.
            (cls._file(root), record.to_json(layout) + "\n"),
        ):
            files.write_text(path, text, 0o444, durable=False)
        return cls(root, generation_id, alignment_bytes)


@dataclass(frozen=True)
class _LayoutVersion:
    version: int


def within(placed: list[Placed], offset: int, end: int) -> list[Placed]:
    """What of a list of mappings lies in [offset, end)."""
    parts = ((entry, entry.mapping.part(offset, end)) for entry in placed)
    return [replace(entry, mapping=part) for entry, part in parts if part is not None]


def without(placed: list[Placed], offset: int, end: int) -> list[Placed]:
    """Cut [offset, end) out of a list of mappings; what sticks out on either side stays."""
    return [replace(entry, mapping=piece) for entry in placed for piece in entry.mapping.without(offset, end)]
