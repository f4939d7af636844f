# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""msharefs played by the library on tmpfs, with a kernel's rules and errnos, for any user.

Memory is real and shared by real processes. What differs from a kernel is the page tables (each
process has its own, so savings are modelled), that other processes follow a change of the region or
the end of its owner within milliseconds instead of at once, and that who may only read a region's
file really cannot write to it. A process that maps the region's file by itself, without this library,
sees the memory too; it gets SIGBUS instead of SIGSEGV once the owner is gone, and no SIGSEGV in holes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ... import files, paths
from ...errors import MshareError
from ...host import procfs
from ...kernel import abi, syscalls
from ...kernel.calls.base import Geometry
from ...kernel.generations import ADVICE, generation, not_supported
from ...kernel.syscalls import NewMapping
from ...record import Malformed
from ...units import round_up
from ..base import Backend, RegionFile, Window
from ..mapping import Kind, Mapping
from ..pieces import Pieces
from .door import DOORMAN, Door, call
from .layout import (
    DIRECTORY,
    Layout,
    Memory,
    Placed,
    Record,
    Sidecar,
    Task,
    end_it,
    file_of,
    sidecar_mode,
    within,
    without,
)
from .pieces import SimulatedPieces
from .watch import WATCHER
from .window import (
    HELD,
    UNMAPPED,
    SimulatedWindow,
    access_mode,
    allowed,
    bury,
    open_object,
    refusal,
    reopened,
)

# While a region is made, its sidecar is there a moment before its door.
_DOOR_LOOKS, _DOOR_PAUSE_SECONDS = 250, 0.001


def _stale(path: str, reason: str) -> OSError:
    return OSError(errno.ESTALE, reason, path)


def _this_task() -> Task:
    pid, thread = os.getpid(), threading.get_native_id()
    return Task(pid, thread, procfs.start_ticks(pid, thread) or 0)


# Of the memory of a region without a file, once it has its size: nobody can cut it off under a process.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SimulatedRegionFile(RegionFile):
    def __init__(
        self, backend: SimulatedBackend, name: str, fd: int, sidecar: Sidecar, door: Door | None = None
    ) -> None:
        """`door` is what the creator of a region without a file gives it out at."""
        self.name = name
        self.fd = fd
        self._backend = backend
        self._features = backend.generation.features
        self._sidecar = sidecar
        self._door = door
        self._path = backend.path(name)

    # -- size

    def set_size(self, window_bytes: int, address: int | None = None) -> None:
        fixed = not self._features.any_address
        with self._sidecar.change() as change:
            record = change.record
            if record.size_used:
                raise refusal(errno.EINVAL, self._path)
            if window_bytes % self._backend.alignment_bytes or window_bytes < 0:
                raise refusal(errno.EINVAL, self._path)
            # ftruncate takes a size of 0, which uses up the only chance; the other calls do not.
            if fixed and (not window_bytes or not address or address % self._backend.alignment_bytes):
                raise refusal(errno.EINVAL, self._path)
            os.ftruncate(self.fd, window_bytes)
            if record.memory is not None:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            whole = Mapping(0, window_bytes)
            change.record = replace(
                record,
                size_used=True,
                window_bytes=window_bytes,
                address=address if fixed else None,
                placed=[] if self._features.explicit_mappings else [Placed(whole, 0)],
            )

    def geometry(self) -> Geometry:
        record = self._sidecar.read()
        return Geometry(record.address, record.window_bytes)

    # -- mappings inside

    def create_mapping(self, new: NewMapping) -> None:
        if not self._features.explicit_mappings:
            raise not_supported("objects cannot be mapped one by one", self._backend.generation)
        with self._sidecar.change() as change:
            record = change.record
            offset = new.offset_bytes
            page_bytes = abi.huge_page_bytes(new.flags) or abi.PAGE_BYTES
            if record.window_bytes and round_up(new.size_bytes, abi.PAGE_BYTES) + offset >= 1 << 64:
                # The sum wraps, so a kernel's check of the region lets it pass; no address space has room.
                self._kind(new)
                raise refusal(errno.ENOMEM, self._path)
            end = self._end(record, offset, new.size_bytes, page_bytes)
            kind = self._kind(new)
            if new.flags & abi.MAP_FIXED_NOREPLACE and without(record.placed, offset, end) != record.placed:
                raise refusal(errno.EEXIST, self._path)
            mapping = Mapping(offset, end - offset, kind, new.prot, object_offset=new.object_offset_bytes)
            entry = Placed(mapping, record.next_serial)
            if kind == "anonymous":
                self._check_commit(end - offset, new.flags)
            else:
                entry = self._held_open(entry, record.inode, new)
            self._free(offset, end)
            change.record = replace(
                record,
                placed=[*without(record.placed, offset, end), entry],
                next_serial=record.next_serial + 1,
            )
            self._let_go(record, change.record)
        WATCHER.refresh()

    @staticmethod
    def _held_open(entry: Placed, region_inode: int, new: NewMapping) -> Placed:
        """Keep an object open as long as this process lives and the object is mapped."""
        mapping = entry.mapping
        if mapping.kind == "hugetlb":
            fd = _huge_memory(mapping.size_bytes, new.flags)
        else:
            mapping = replace(mapping, path=os.readlink(f"/proc/self/fd/{new.object_fd}"))
            fd = os.dup(new.object_fd)
        HELD[region_inode, entry.serial] = fd
        status = os.fstat(fd)
        return Placed(mapping, entry.serial, status.st_dev, status.st_ino, os.getpid(), fd, allowed(fd))

    def _free(self, offset: int, end: int) -> None:
        """Give anonymous memory in a range back; it is zeroes when it is mapped again."""
        fd = reopened(self.fd)
        try:
            if access_mode(fd) == os.O_RDONLY:
                raise refusal(errno.EACCES, self._path)
            syscalls.punch_hole(fd, offset, end - offset)
        finally:
            os.close(fd)

    def _kind(self, new: NewMapping) -> Kind:
        """The kind of object the arguments ask for, refused as mmap inside a kernel refuses them."""
        kinds, flags, prot = self._features.mapping_kinds, new.flags, new.prot
        if not flags & abi.MAP_FIXED or not flags & abi.MAP_SHARED or flags & abi.MAP_PRIVATE:
            raise refusal(errno.EINVAL, self._path)
        if prot & ~abi.PROT_ALL or new.object_offset_bytes % abi.PAGE_BYTES:
            raise refusal(errno.EINVAL, self._path)
        if flags & abi.MAP_ANONYMOUS:
            kind: Kind = "hugetlb" if flags & abi.MAP_HUGETLB else "anonymous"
            if kind not in kinds:
                raise refusal(errno.EINVAL, self._path)
            return kind
        if "file" not in kinds:
            raise refusal(errno.EINVAL, self._path)
        try:
            status = os.fstat(new.object_fd)
        except OSError:
            raise refusal(errno.EBADF, self._path) from None
        itself = os.path.samestat(status, os.fstat(self.fd))
        if flags & abi.MAP_HUGETLB or itself or self._backend.holds(status):
            raise refusal(errno.EINVAL, self._path)
        access = access_mode(new.object_fd)
        unreadable = access == os.O_WRONLY or (prot & abi.PROT_WRITE and access != os.O_RDWR)
        if not stat.S_ISREG(status.st_mode) or unreadable:
            raise refusal(errno.EACCES, self._path)
        return "file"

    def _end(self, record: Record, offset: int, size_bytes: int, page_bytes: int = abi.PAGE_BYTES) -> int:
        """Where a range inside the region ends; EINVAL for one that is not inside, or unaligned."""
        inside = 0 <= offset < record.window_bytes and 0 < size_bytes <= record.window_bytes - offset
        if not inside or offset % page_bytes:
            raise refusal(errno.EINVAL, self._path)
        end = offset + round_up(size_bytes, abi.PAGE_BYTES)
        huge = [entry.mapping for entry in record.placed if entry.mapping.kind == "hugetlb"]
        for edge in (offset, end):
            if edge % abi.HUGE_PAGE_BYTES and any(page.offset < edge < page.end for page in huge):
                raise refusal(errno.EINVAL, self._path)
        return end

    def _check_commit(self, size_bytes: int, flags: int) -> None:
        """ENOMEM where a kernel's overcommit accounting would refuse shared anonymous memory."""
        mode = procfs.sysctl("vm.overcommit_memory")
        meminfo_bytes = procfs.meminfo_bytes()
        if mode == "2":
            free_bytes = meminfo_bytes.get("CommitLimit", 0) - meminfo_bytes.get("Committed_AS", 0)
            refused = size_bytes > free_bytes
        else:
            total_bytes = meminfo_bytes.get("MemTotal", 0) + meminfo_bytes.get("SwapTotal", 0)
            refused = mode == "0" and not flags & abi.MAP_NORESERVE and size_bytes > total_bytes
        if refused:
            raise refusal(errno.ENOMEM, self._path)

    def unmap(self, offset_bytes: int, size_bytes: int) -> None:
        if not self._features.unmap:
            raise not_supported("objects cannot be unmapped", self._backend.generation)
        with self._sidecar.change() as change:
            record = change.record
            end = self._end(record, offset_bytes, size_bytes)
            self._free(offset_bytes, end)
            change.record = replace(record, placed=without(record.placed, offset_bytes, end))
            self._let_go(record, change.record)
        WATCHER.refresh()

    # -- what is mapped, changed for everybody

    def protect(self, offset_bytes: int, size_bytes: int, prot: int) -> None:
        if not self._features.protect:
            raise not_supported("protection cannot be changed", self._backend.generation)

        def protected(entry: Placed) -> Placed:
            if prot & ~entry.prot_maximum:
                raise refusal(errno.EACCES, self._path)
            return replace(entry, mapping=replace(entry.mapping, prot=prot))

        with self._sidecar.change() as change:
            record = change.record
            if prot & ~abi.PROT_ALL:
                raise refusal(errno.EINVAL, self._path)
            end = self._end(record, offset_bytes, size_bytes)
            change.record = replace(record, placed=self._changed(record, offset_bytes, end, protected))
        WATCHER.refresh()

    def advise(self, offset_bytes: int, size_bytes: int, advice: int) -> None:
        if not self._features.advice:
            raise not_supported("advice cannot be given", self._backend.generation)

        def advised(entry: Placed) -> Placed:
            if advice == abi.MADV_DONTNEED:
                return replace(entry, dropped=entry.dropped + 1)
            if entry.mapping.kind == "hugetlb":
                raise refusal(errno.EINVAL, self._path)
            return replace(entry, advice=advice)

        with self._sidecar.change() as change:
            record = change.record
            if advice not in (ADVICE[name] for name in self._features.advice):
                raise refusal(errno.EINVAL, self._path)
            end = self._end(record, offset_bytes, size_bytes)
            if advice == abi.MADV_REMOVE:
                self._remove(record, offset_bytes, end)
            else:
                change.record = replace(record, placed=self._changed(record, offset_bytes, end, advised))
        WATCHER.refresh()

    def _changed(
        self, record: Record, offset: int, end: int, changed: Callable[[Placed], Placed]
    ) -> list[Placed]:
        """A region's mappings with those between two offsets changed; ENOMEM where nothing is mapped."""
        inside = self._inside(record, offset, end)
        return [*without(record.placed, offset, end), *map(changed, inside)]

    def _inside(self, record: Record, offset: int, end: int) -> list[Placed]:
        """The parts of the mappings between two offsets; ENOMEM, as mprotect(2) has it, with a hole there."""
        inside = within(record.placed, offset, end)
        if sum(part.mapping.size_bytes for part in inside) != end - offset:
            raise refusal(errno.ENOMEM, self._path)
        return inside

    def _remove(self, record: Record, offset: int, end: int) -> None:
        """Free memory, or make a hole in a file: zeroes for everybody. EACCES where nobody may write."""
        inside = self._inside(record, offset, end)
        if any(not part.mapping.prot & abi.PROT_WRITE for part in inside):
            raise refusal(errno.EACCES, self._path)
        for part in inside:
            mapping = part.mapping
            if mapping.kind == "anonymous":
                self._free(mapping.offset, mapping.end)
                continue
            fd = open_object(part, record.inode, self.fd, self._sidecar.fd)
            try:
                syscalls.punch_hole(fd, mapping.object_offset, mapping.size_bytes)
            finally:
                os.close(fd)

    @staticmethod
    def _let_go(before: Record, after: Record) -> None:
        """Close what this process held for mappings that are gone."""
        still = {entry.serial for entry in after.placed}
        for entry in before.placed:
            held = None if entry.serial in still else HELD.pop((before.inode, entry.serial), None)
            if held is not None:
                os.close(held)

    def mappings(self) -> list[Mapping] | None:
        return sorted((e.mapping for e in self._sidecar.read().placed), key=lambda m: m.offset)

    def pieces(self) -> Pieces | None:
        return SimulatedPieces(self.fd, self._sidecar)

    # -- the window

    def attach(
        self,
        size_bytes: int,
        prot: int = abi.PROT_READ | abi.PROT_WRITE,
        flags: int = abi.MAP_SHARED,
        address: int | None = None,
        offset_bytes: int = 0,
    ) -> Window:
        record = self._sidecar.read()
        if record.dead:
            bury(self.fd)
            raise refusal(errno.EINVAL, self._path)
        alignment_bytes = self._backend.alignment_bytes
        wrong_flags = not flags & abi.MAP_SHARED or flags & (abi.MAP_PRIVATE | abi.MAP_HUGETLB)
        if wrong_flags or not self._may_show(record, offset_bytes, size_bytes):
            raise refusal(errno.EINVAL, self._path)
        access = access_mode(self.fd)
        if access == os.O_WRONLY or (access == os.O_RDONLY and prot & abi.PROT_WRITE):
            raise refusal(errno.EACCES, self._path)
        if record.address is not None and address != record.address:
            raise refusal(errno.EINVAL, self._path)
        fixed = flags & (abi.MAP_FIXED | abi.MAP_FIXED_NOREPLACE)
        if fixed and (address or 0) % alignment_bytes:
            raise refusal(errno.EINVAL, self._path)
        where = _reserve(address, size_bytes, fixed, alignment_bytes)
        if record.address is not None and where != record.address:
            syscalls.munmap(where, size_bytes)
            raise refusal(errno.EINVAL, self._path)
        window = SimulatedWindow(where, size_bytes, self.fd, self._sidecar.dup(), offset_bytes)
        try:
            WATCHER.add(window)
            if not window.refresh():
                raise refusal(errno.EINVAL, self._path)
        except BaseException:
            window.detach()
            raise
        return window

    def _may_show(self, record: Record, offset: int, size_bytes: int) -> bool:
        """Whether a window can begin there and have this size."""
        if record.memory is not None and not self._sealed(record):
            return False
        if not self._features.partial_attach:
            return record.window_bytes > 0 and (offset, size_bytes) == (0, record.window_bytes)
        aligned = not (offset | size_bytes) % self._backend.alignment_bytes
        return aligned and 0 <= offset < offset + size_bytes <= record.window_bytes

    def _sealed(self, record: Record) -> bool:
        """Whether the memory that was given is as large as the window, and stays that."""
        seals = fcntl.fcntl(self.fd, fcntl.F_GET_SEALS)
        return bool(seals & fcntl.F_SEAL_SHRINK) and os.fstat(self.fd).st_size == record.window_bytes

    # -- the file

    def set_access(self, mode: int, uid: int = -1, gid: int = -1) -> None:
        if self._backend.memory_is_a_file:
            super().set_access(mode, uid, gid)
        self._sidecar.set_access(mode, uid, gid)
        if self._features.nameless:
            self._backend.set_name_access(self.name, self._sidecar.read().inode, mode, uid, gid)

    def close(self) -> None:
        if self.fd < 0:
            return
        door, self._door = self._door, None
        try:
            # A forked child has copies of what the creator has, and the region is none of its own.
            if door is not None and door.pid == os.getpid():
                self._end_region(door)
        finally:
            self._sidecar.close()
            super().close()

    def _end_region(self, door: Door) -> None:
        """What closing the creator's descriptor does to a region without a file: it ends for everybody."""
        DOORMAN.close(door)
        with self._sidecar.change() as change:
            change.record = replace(change.record, ended=True)
            inode = change.record.inode
        WATCHER.refresh()
        # The name names nothing now. Somebody may have taken it away, or given it to another region.
        with contextlib.suppress(OSError, MshareError):
            self._backend.unlink_if(self.name, inode)


def _huge_memory(size_bytes: int, flags: int) -> int:
    """Real huge pages for a region, as a memfd; ENOMEM where the pool has too few, as on a kernel."""
    code = abi.huge_page_bytes(flags).bit_length() - 1
    try:
        fd = os.memfd_create("mshare-hugetlb", os.MFD_CLOEXEC | os.MFD_HUGETLB | code << abi.MAP_HUGE_SHIFT)
    except OSError as error:
        raise OSError(errno.EINVAL, f"no huge pages of this size ({error.strerror})") from None
    try:
        os.ftruncate(fd, size_bytes)
        # The first mapping reserves the pages, and they stay the file's.
        syscalls.munmap(syscalls.mmap(None, size_bytes, abi.PROT_READ, abi.MAP_SHARED, fd), size_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd


def _reserve(address: int | None, size_bytes: int, fixed: int, alignment_bytes: int) -> int:
    """Take an aligned address range in which nothing is mapped yet; returns its address."""
    if address is not None:
        where = round_up(address, alignment_bytes)
        try:
            flags = UNMAPPED | (fixed or abi.MAP_FIXED_NOREPLACE)
            return syscalls.mmap(where, size_bytes, abi.PROT_NONE, flags, -1)
        except OSError as error:
            if fixed or error.errno != errno.EEXIST:
                raise
    # A hint that is taken is only a hint: find any aligned place, then give back what sticks out.
    start = syscalls.mmap(None, size_bytes + alignment_bytes, abi.PROT_NONE, UNMAPPED, -1)
    where = round_up(start, alignment_bytes)
    if where > start:
        syscalls.munmap(start, where - start)
    if where < start + alignment_bytes:
        syscalls.munmap(where + size_bytes, start + alignment_bytes - where)
    return where


def _taken(name: str) -> bool:
    """Whether a name is the simulator's own: its files, and the sidecar that would have the layout's name."""
    return name in (abi.INFO_FILE, "layout") or DIRECTORY in name.split("/")


class SimulatedBackend(Backend):
    """A root laid out by `Layout.create`. Raises Unavailable where there is none, or no cffi."""

    name = "simulated"
    region_file = SimulatedRegionFile
    memory_is_a_file = True
    """Of regions without a file: whether their memory is one, with a mode of its own."""

    def __init__(self, root: str) -> None:
        syscalls.require()
        self._layout = Layout.read(root)
        self.root = root
        self.alignment_bytes = self._layout.alignment_bytes
        self.generation = generation(self._layout.generation_id)

    def open(self, name: str, flags: int, mode: int = 0o600) -> RegionFile:
        path = self.path(name)
        if _taken(name):
            raise refusal(errno.EEXIST if flags & os.O_EXCL else errno.EACCES, path)
        if not flags & os.O_CREAT:
            return self._open_existing(name, flags)
        with self._layout.names_locked(name):
            if os.path.lexists(path):
                if flags & os.O_EXCL:
                    raise refusal(errno.EEXIST, path)
                return self._open_existing(name, flags)
            # O_TRUNC must not reach a region's memory: on a kernel it is a try to set the size to 0.
            fd = files.create_file(path, flags & ~os.O_TRUNC, mode)
            try:
                if self.generation.features.nameless:
                    return self._without_file(name, fd, flags)
                return self.region_file(self, name, fd, self._new_sidecar(name, fd))
            except BaseException:
                os.close(fd)
                # On a full tmpfs there is no room for it: nothing half-done stays.
                self._layout.unlink(name)
                raise

    def _without_file(self, name: str, name_fd: int, flags: int) -> RegionFile:
        """Make the memory of a new region, which this process gives out; takes the name's descriptor."""
        mode = stat.S_IMODE(os.fstat(name_fd).st_mode)
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as scratch:
            memory_fd = self.new_memory(name)
            scratch.callback(os.close, memory_fd)
            fd = self.reopened(memory_fd, flags)
            undo.callback(os.close, fd)
            sidecar = self._new_sidecar(name, name_fd, Memory.of(memory_fd))
            undo.callback(sidecar.close)
            door = self._door(name, mode, name_fd, memory_fd)
            undo.callback(door.close)
            DOORMAN.open(door)
            undo.pop_all()
        os.close(name_fd)
        return self.region_file(self, name, fd, sidecar, door)

    def _door(self, name: str, mode: int, name_fd: int, memory_fd: int) -> Door:
        listener = files.make_socket(self._layout.door_path(name), sidecar_mode(mode))
        try:
            if not self.memory_is_a_file:
                return Door(listener, name_fd, memory_fd, None)
            read_only_fd = self.reopened(memory_fd, os.O_RDONLY)
            try:
                os.fchmod(memory_fd, mode)
                return Door(listener, name_fd, memory_fd, read_only_fd)
            finally:
                os.close(read_only_fd)
        except BaseException:
            listener.close()
            raise

    # What a kernel with the described calls does itself; see backends/called.py.

    def new_memory(self, name: str) -> int:
        """The memory of a region without a file: a descriptor, of no size yet."""
        return os.memfd_create(f"{paths.REGION_MEMORY}{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def reopened(self, memory_fd: int, flags: int) -> int:
        """The same memory, open in the way that was asked for."""
        return os.open(f"/proc/self/fd/{memory_fd}", flags & os.O_ACCMODE | os.O_CLOEXEC)

    def _open_existing(self, name: str, flags: int) -> RegionFile:
        if stat.S_ISDIR(files.status(self.path(name)).st_mode):
            raise refusal(errno.EISDIR, self.path(name))
        with file_of(name):
            fd = files.open_file(self.path(name), flags & ~(os.O_TRUNC | os.O_CREAT | os.O_EXCL))
        with contextlib.ExitStack() as undo:
            name_fd = fd
            undo.callback(os.close, name_fd)
            sidecar = self._layout.sidecar_of(name, name_fd)
            undo.callback(sidecar.close)
            if self.generation.features.nameless:
                fd = self._given(name, name_fd, sidecar, flags)
                undo.callback(os.close, fd)
            region = self.region_file(self, name, fd, sidecar)
            if flags & os.O_TRUNC:
                region.set_size(0)
            undo.pop_all()
        if fd != name_fd:
            os.close(name_fd)
        return region

    def _given(self, name: str, name_fd: int, sidecar: Sidecar, flags: int) -> int:
        """The memory of a region without a file, which its creator gives.

        ESTALE where the creator is gone, and the region with it, or does not give it out any more.
        """
        path = self._layout.door_path(name)
        for looks_left in range(_DOOR_LOOKS, -1, -1):
            record = sidecar.read()
            if record.dead:
                raise _stale(self.path(name), "the region ended with its owner")
            try:
                with file_of(name):
                    given = call(path, name, os.fstat(name_fd).st_uid)
                break
            except (ConnectionRefusedError, FileNotFoundError):
                # It may be just making the door, or just ending.
                if not looks_left:
                    owner = "its owner" if record.owner is None else f"its owner (process {record.owner.pid})"
                    raise _stale(self.path(name), f"{owner} lives, but nobody answers at {path}") from None
            time.sleep(_DOOR_PAUSE_SECONDS)
        try:
            if Memory.of(given) != record.memory:
                raise files.NotTrusted(path, "not the door of this region", next_step=end_it(name))
            return self.reopened(given, flags)
        finally:
            os.close(given)

    def _new_sidecar(self, name: str, region_fd: int, memory: Memory | None = None) -> Sidecar:
        status = os.fstat(region_fd)
        owner = _this_task() if self.generation.features.owner_bound else None
        first = Record(status.st_ino, owner, memory=memory)
        return self._layout.create_sidecar(name, first, stat.S_IMODE(status.st_mode))

    def unlink(self, name: str) -> None:
        if _taken(name):
            raise refusal(errno.EPERM, self.path(name))
        with self._layout.names_locked(name):
            # A damaged sidecar goes with the name.
            with contextlib.suppress(Malformed):
                record = self._layout.record(name)
                if record is not None and record.dead:
                    self.bury(name)
            files.unlink(self.path(name))
            self._layout.unlink(name)

    def unlink_if(self, name: str, inode: int) -> None:
        """Remove a name, if it still is that of the region whose file this was."""
        with self._layout.names_locked(name):
            if files.status(self.path(name)).st_ino == inode:
                self._layout.unlink(name)

    def set_name_access(self, name: str, inode: int, mode: int, uid: int, gid: int) -> None:
        """Give the name of a region without a file another mode, user or group, while it has that name."""
        with contextlib.suppress(FileNotFoundError), file_of(name):
            files.set_access(self.path(name), files.Access(mode, uid, gid), inode)
            self._layout.set_door_access(name, mode, uid, gid)

    def bury(self, name: str) -> None:
        # Who may unlink a region need not be allowed to open it.
        with contextlib.suppress(OSError, files.NotTrusted):
            fd = files.open_file(self.path(name), os.O_RDWR)
            bury(fd)
            os.close(fd)

    def names(self) -> list[str]:
        return self._layout.names()

    def clear_away(self, is_mine: Callable[[str], bool]) -> None:
        self._layout.clear_away(is_mine)

    def holds(self, status: os.stat_result) -> bool:
        """Whether a file is a region of this root: an msharefs file never goes into a region."""
        if self.generation.features.nameless:
            records = (self._layout.record(name) for name in self.names())
            memory = Memory(status.st_dev, status.st_ino)
            return any(record is not None and record.memory == memory for record in records)
        if status.st_dev != os.stat(self.root).st_dev:
            return False
        for name in self.names():
            with contextlib.suppress(OSError):
                if files.status(self.path(name)).st_ino == status.st_ino:
                    return True
        return False
