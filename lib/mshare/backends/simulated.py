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
from dataclasses import replace

from .. import abi, libc, procfs
from ..generations import generation
from ..generations.base import Geometry, not_supported
from ..units import round_up
from .base import Backend, Mapping, RegionFile, Task, Window
from .layout import DIRECTORY, Layout, Placed, Record, Sidecar, subtract, without
from .watch import WATCHER

_UNMAPPED = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_NORESERVE

# Objects this process mapped into regions, by (region inode, serial): they stay open as long as the
# process lives, for other processes reach them through it.
_held: dict[tuple[int, int], int] = {}


def _refuse(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _this_task() -> Task:
    pid, thread = os.getpid(), threading.get_native_id()
    return Task(pid, thread, procfs.start_ticks(pid, thread) or 0)


def _bury(fd: int) -> None:
    """Free a dead region's memory, as a kernel does when the owner ends, if nobody has it mapped.

    Each window holds a shared lock on the file, so the last to leave finds it free. Memory taken away
    earlier would be SIGBUS to a late one, where a kernel sends SIGSEGV. Readers can't, and needn't.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
    fcntl.flock(fd, fcntl.LOCK_UN)


def _reopened(fd: int) -> int:
    """An open file of one's own, with locks of its own: writable if at all possible, for protection
    inside a region is the inner mapping's alone, however the file was opened."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


class SimulatedWindow(Window):
    def __init__(self, address: int, size_bytes: int, region_fd: int, sidecar: Sidecar) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self._region_fd = self._hold(region_fd)
        self._sidecar = sidecar
        self._mapped: list[Placed] = []
        self._lock = threading.Lock()
        self._attached = True

    @staticmethod
    def _hold(region_fd: int) -> int:
        fd = _reopened(region_fd)
        fcntl.flock(fd, fcntl.LOCK_SH)
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
            record = self._sidecar.read()
            if record.dead:
                self._blank(0, self.size_bytes)
                self._mapped = []
                return False
            self._follow(record)
            return True

    def _follow(self, record: Record) -> None:
        """Map what is new and blank what is gone. What this process may not open becomes a hole; the
        rest is mapped before the refusal is raised."""
        known, wanted = set(self._mapped), set(record.placed)
        ranges = [(entry.mapping.offset, entry.mapping.end) for entry in record.placed]
        for entry in known - wanted:
            for start, end in subtract((entry.mapping.offset, entry.mapping.end), ranges):
                self._blank(start, end)
        self._mapped = [entry for entry in record.placed if entry in known]
        refused = None
        for entry in record.placed:
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
                _bury(self._region_fd)

    def detach(self) -> None:
        with self._lock:
            if not self._attached:
                return
            self._attached = False
            libc.munmap(self.address, self.size_bytes)
        WATCHER.remove(self)
        os.close(self._region_fd)
        self._sidecar.close()

    def _blank(self, start: int, end: int) -> None:
        # PROT_NONE: a touch here is SIGSEGV, as in a hole of a region.
        flags = _UNMAPPED | abi.MAP_FIXED
        libc.mmap(self.address + start, end - start, abi.PROT_NONE, flags, -1)

    def _map(self, entry: Placed, region_inode: int) -> None:
        mapping = entry.mapping
        if mapping.kind == "anonymous":
            fd, offset, own = self._region_fd, mapping.offset, False
        else:
            fd, offset, own = _open_object(entry, region_inode), mapping.object_offset, True
        try:
            libc.mmap(
                self.address + mapping.offset,
                mapping.size_bytes,
                mapping.prot & _allowed(fd),
                abi.MAP_SHARED | abi.MAP_FIXED,
                fd,
                offset,
            )
        finally:
            if own:
                os.close(fd)


def _allowed(fd: int) -> int:
    """The protection bits that a file descriptor can carry."""
    return abi.PROT_ALL if _access_mode(fd) == os.O_RDWR else abi.PROT_READ | abi.PROT_EXEC


def _access_mode(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def _open_object(entry: Placed, region_inode: int) -> int:
    """Open what a mapping shows: by this process's own descriptor, its path, or its holder's."""
    held = _held.get((region_inode, entry.serial))
    if held is not None:
        return os.dup(held)
    writes = entry.mapping.prot & abi.PROT_WRITE
    flags = (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC
    refused = _refuse(errno.EACCES, entry.mapping.path or "object")
    for path in (entry.mapping.path, f"/proc/{entry.holder_pid}/fd/{entry.holder_fd}"):
        if path is None:
            continue
        try:
            fd = os.open(path, flags)
        except OSError as error:
            refused = error
            continue
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == (entry.device, entry.inode):
            return fd
        os.close(fd)
    raise refused


class SimulatedRegionFile(RegionFile):
    def __init__(self, backend: SimulatedBackend, name: str, fd: int, sidecar: Sidecar) -> None:
        self.name = name
        self.fd = fd
        self._backend = backend
        self._features = backend.generation.features
        self._sidecar = sidecar
        self._path = backend.path(name)

    # -- size

    def set_size(self, window_bytes: int, address: int | None = None) -> None:
        fixed = not self._features.any_address
        with self._sidecar.change() as change:
            record = change.record
            if record.size_used:
                raise _refuse(errno.EINVAL, self._path)
            if window_bytes % self._backend.alignment_bytes or window_bytes < 0:
                raise _refuse(errno.EINVAL, self._path)
            # ftruncate takes a size of 0, which uses up the only chance; the other calls do not.
            if fixed and (not window_bytes or not address or address % self._backend.alignment_bytes):
                raise _refuse(errno.EINVAL, self._path)
            os.ftruncate(self.fd, window_bytes)
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

    def create_mapping(
        self,
        offset: int,
        size: int,
        prot: int,
        flags: int,
        object_fd: int = -1,
        object_offset: int = 0,
    ) -> None:
        if not self._features.explicit_mappings:
            raise not_supported("objects cannot be mapped one by one", self._backend.generation)
        with self._sidecar.change() as change:
            record = change.record
            end = self._end(record, offset, size, abi.huge_page_bytes(flags) or abi.PAGE_BYTES)
            kind = self._kind(flags, object_fd, prot, object_offset)
            if flags & abi.MAP_FIXED_NOREPLACE and without(record.placed, offset, end) != record.placed:
                raise _refuse(errno.EEXIST, self._path)
            entry = Placed(
                Mapping(offset, end - offset, kind, prot, object_offset=object_offset), record.next_serial
            )
            if kind == "anonymous":
                self._check_commit(end - offset, flags)
            else:
                entry = self._held_open(entry, record.inode, object_fd, flags)
            self._free(offset, end)
            change.record = replace(
                record,
                placed=[*without(record.placed, offset, end), entry],
                next_serial=record.next_serial + 1,
            )
            self._let_go(record, change.record)
        WATCHER.refresh()

    @staticmethod
    def _held_open(entry: Placed, region_inode: int, object_fd: int, flags: int) -> Placed:
        """Keep an object open as long as this process lives and the object is mapped."""
        mapping = entry.mapping
        if mapping.kind == "hugetlb":
            fd = _huge_memory(mapping.size_bytes, flags)
        else:
            mapping = replace(mapping, path=os.readlink(f"/proc/self/fd/{object_fd}"))
            fd = os.dup(object_fd)
        _held[region_inode, entry.serial] = fd
        found = os.fstat(fd)
        return Placed(mapping, entry.serial, found.st_dev, found.st_ino, os.getpid(), fd)

    def _free(self, offset: int, end: int) -> None:
        """Give anonymous memory in a range back; it is zeroes when it is mapped again."""
        fd = _reopened(self.fd)
        try:
            if _access_mode(fd) == os.O_RDONLY:
                raise _refuse(errno.EACCES, self._path)
            libc.punch_hole(fd, offset, end - offset)
        finally:
            os.close(fd)

    def _kind(self, flags: int, object_fd: int, prot: int, object_offset: int) -> str:
        """The kind of object the arguments ask for, refused as mmap inside a kernel refuses them."""
        kinds = self._features.mapping_kinds
        if not flags & abi.MAP_FIXED or not flags & abi.MAP_SHARED or flags & abi.MAP_PRIVATE:
            raise _refuse(errno.EINVAL, self._path)
        if prot & ~abi.PROT_ALL or object_offset % abi.PAGE_BYTES:
            raise _refuse(errno.EINVAL, self._path)
        if flags & abi.MAP_ANONYMOUS:
            kind = "hugetlb" if flags & abi.MAP_HUGETLB else "anonymous"
            if kind not in kinds:
                raise _refuse(errno.EINVAL, self._path)
            return kind
        if "file" not in kinds:
            raise _refuse(errno.EINVAL, self._path)
        try:
            found = os.fstat(object_fd)
        except OSError:
            raise _refuse(errno.EBADF, self._path) from None
        itself = os.path.samestat(found, os.fstat(self.fd))
        if flags & abi.MAP_HUGETLB or itself or self._backend.holds(found):
            raise _refuse(errno.EINVAL, self._path)
        access = _access_mode(object_fd)
        unreadable = access == os.O_WRONLY or (prot & abi.PROT_WRITE and access != os.O_RDWR)
        if not stat.S_ISREG(found.st_mode) or unreadable:
            raise _refuse(errno.EACCES, self._path)
        return "file"

    def _end(self, record: Record, offset: int, size: int, page_bytes: int = abi.PAGE_BYTES) -> int:
        """Where a range inside the region ends; EINVAL for one that is not inside, or unaligned."""
        inside = 0 <= offset < record.window_bytes and 0 < size <= record.window_bytes - offset
        if not inside or offset % page_bytes:
            raise _refuse(errno.EINVAL, self._path)
        end = offset + round_up(size, abi.PAGE_BYTES)
        huge = [entry.mapping for entry in record.placed if entry.mapping.kind == "hugetlb"]
        for edge in (offset, end):
            if edge % abi.HUGE_PAGE_BYTES and any(page.offset < edge < page.end for page in huge):
                raise _refuse(errno.EINVAL, self._path)
        return end

    def _check_commit(self, size: int, flags: int) -> None:
        """ENOMEM where a kernel's overcommit accounting would refuse shared anonymous memory."""
        mode = procfs.sysctl("vm.overcommit_memory")
        memory = procfs.meminfo_bytes()
        if mode == "2":
            refused = size > memory.get("CommitLimit", 0) - memory.get("Committed_AS", 0)
        else:
            total = memory.get("MemTotal", 0) + memory.get("SwapTotal", 0)
            refused = mode == "0" and not flags & abi.MAP_NORESERVE and size > total
        if refused:
            raise _refuse(errno.ENOMEM, self._path)

    def unmap(self, offset: int, size: int) -> None:
        if not self._features.unmap:
            raise not_supported("objects cannot be unmapped", self._backend.generation)
        with self._sidecar.change() as change:
            record = change.record
            end = self._end(record, offset, size)
            self._free(offset, end)
            change.record = replace(record, placed=without(record.placed, offset, end))
            self._let_go(record, change.record)
        WATCHER.refresh()

    @staticmethod
    def _let_go(before: Record, after: Record) -> None:
        """Close what this process held for mappings that are gone."""
        still = {entry.serial for entry in after.placed}
        for entry in before.placed:
            held = None if entry.serial in still else _held.pop((before.inode, entry.serial), None)
            if held is not None:
                os.close(held)

    def mappings(self) -> list[Mapping] | None:
        return sorted((e.mapping for e in self._sidecar.read().placed), key=lambda m: m.offset)

    # -- the window

    def attach(
        self,
        length: int,
        prot: int = abi.PROT_READ | abi.PROT_WRITE,
        flags: int = abi.MAP_SHARED,
        address: int | None = None,
    ) -> Window:
        record = self._sidecar.read()
        if record.dead:
            _bury(self.fd)
            raise _refuse(errno.EINVAL, self._path)
        alignment = self._backend.alignment_bytes
        wrong_flags = not flags & abi.MAP_SHARED or flags & (abi.MAP_PRIVATE | abi.MAP_HUGETLB)
        if not record.window_bytes or length != record.window_bytes or wrong_flags:
            raise _refuse(errno.EINVAL, self._path)
        access = _access_mode(self.fd)
        if access == os.O_WRONLY or (access == os.O_RDONLY and prot & abi.PROT_WRITE):
            raise _refuse(errno.EACCES, self._path)
        if record.address is not None and address != record.address:
            raise _refuse(errno.EINVAL, self._path)
        fixed = flags & (abi.MAP_FIXED | abi.MAP_FIXED_NOREPLACE)
        if fixed and (address or 0) % alignment:
            raise _refuse(errno.EINVAL, self._path)
        where = _reserve(address, length, fixed, alignment)
        if record.address is not None and where != record.address:
            libc.munmap(where, length)
            raise _refuse(errno.EINVAL, self._path)
        window = SimulatedWindow(where, length, self.fd, self._sidecar.dup())
        try:
            WATCHER.add(window)
            if not window.refresh():
                raise _refuse(errno.EINVAL, self._path)
        except BaseException:
            window.detach()
            raise
        return window

    # -- the file

    def set_access(self, mode: int, uid: int = -1, gid: int = -1) -> None:
        super().set_access(mode, uid, gid)
        self._sidecar.set_access(mode, uid, gid)

    def close(self) -> None:
        if self.fd >= 0:
            self._sidecar.close()
        super().close()


def _huge_memory(size: int, flags: int) -> int:
    """Real huge pages for a region, as a memfd; ENOMEM where the pool has too few, as on a kernel."""
    code = abi.huge_page_bytes(flags).bit_length() - 1
    try:
        fd = os.memfd_create("mshare-hugetlb", os.MFD_CLOEXEC | os.MFD_HUGETLB | code << abi.MAP_HUGE_SHIFT)
    except OSError as error:
        raise OSError(errno.EINVAL, f"no huge pages of this size ({error.strerror})") from None
    try:
        os.ftruncate(fd, size)
        # The first mapping reserves the pages, and they stay the file's.
        libc.munmap(libc.mmap(None, size, abi.PROT_READ, abi.MAP_SHARED, fd), size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _reserve(address: int | None, length: int, fixed: int, alignment: int) -> int:
    """Take an aligned address range in which nothing is mapped yet; returns its address."""
    if address is not None:
        where = round_up(address, alignment)
        try:
            flags = _UNMAPPED | (fixed or abi.MAP_FIXED_NOREPLACE)
            return libc.mmap(where, length, abi.PROT_NONE, flags, -1)
        except OSError as error:
            if fixed or error.errno != errno.EEXIST:
                raise
    # A hint that is taken is only a hint: find any aligned place, then give back what sticks out.
    start = libc.mmap(None, length + alignment, abi.PROT_NONE, _UNMAPPED, -1)
    where = round_up(start, alignment)
    if where > start:
        libc.munmap(start, where - start)
    if where + length < start + length + alignment:
        libc.munmap(where + length, start + alignment - where)
    return where


class SimulatedBackend(Backend):
    """A root laid out by `Layout.create`. Raises Unavailable where there is none, or no cffi."""

    name = "simulated"

    def __init__(self, root: str) -> None:
        libc.require()
        self._layout = Layout.read(root)
        self.root = root
        self.alignment_bytes = self._layout.alignment_bytes
        self.generation = generation(self._layout.generation_id)

    def open(self, name: str, flags: int, mode: int = 0o600) -> RegionFile:
        path = self.path(name)
        if name in (abi.INFO_FILE, DIRECTORY):
            raise _refuse(errno.EEXIST if flags & os.O_EXCL else errno.EACCES, path)
        with self._layout.names_locked(changing=bool(flags & os.O_CREAT)):
            exists = os.path.exists(path)
            # O_TRUNC must not reach a region's memory: on a kernel it is a try to set the size to 0.
            fd = os.open(path, flags & ~os.O_TRUNC | os.O_CLOEXEC, mode)
            try:
                sidecar = self._layout.sidecar(name) if exists else self._new_sidecar(name, fd)
                region = SimulatedRegionFile(self, name, fd, sidecar)
                if exists and flags & os.O_TRUNC:
                    region.set_size(0)
            except BaseException:
                os.close(fd)
                raise
        return region

    def _new_sidecar(self, name: str, region_fd: int) -> Sidecar:
        found = os.fstat(region_fd)
        owner = _this_task() if self.generation.features.owner_bound else None
        return self._layout.create_sidecar(name, Record(found.st_ino, owner), stat.S_IMODE(found.st_mode))

    def unlink(self, name: str) -> None:
        if name in (abi.INFO_FILE, DIRECTORY):
            raise _refuse(errno.EPERM, self.path(name))
        with self._layout.names_locked(changing=True):
            record = self._layout.record(name)
            if record is not None and record.dead:
                self._bury(name)
            os.unlink(self.path(name))
            self._layout.unlink(name)

    def _bury(self, name: str) -> None:
        # Who may unlink a region need not be allowed to open it.
        with contextlib.suppress(OSError):
            fd = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
            _bury(fd)
            os.close(fd)

    def names(self) -> list[str]:
        return self._layout.names()

    def holds(self, found: os.stat_result) -> bool:
        """Whether a file is a region of this root: an msharefs file never goes into a region."""
        return found.st_dev == os.stat(self.root).st_dev and any(
            entry.inode() == found.st_ino for entry in os.scandir(self.root)
        )
