# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regions for programs: create, open, map objects, attach, unlink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from ..backends.base import Backend, RegionFile, Window
from ..backends.connect import connect
from ..backends.mapping import Mapping, protection
from ..errors import InvalidRequest
from ..kernel import abi, syscalls
from ..kernel.generations import ADVICE, not_supported
from ..kernel.syscalls import NewMapping
from ..units import Size, format_size, parse_size, round_up
from . import rules
from .create import blueprint
from .recorded import Change, recorded


@dataclass(frozen=True)
class RegionStat:
    """The state of a region: address space (window), memory (mapped), access."""

    name: str
    path: str
    backend: str
    generation: str
    address: int | None
    """Where every process must attach, or None if each process may choose."""
    window_bytes: int
    mapped_bytes: int | None
    """None if the backend cannot tell what is mapped inside (a kernel does not list it)."""
    mappings: list[Mapping] | None
    mode: int
    uid: int
    gid: int


class Attachment:
    """A region in this process's address space; a context manager, true while attached."""

    def __init__(self, window: Window) -> None:
        self._window: Window | None = window
        self.address = window.address
        self.window_bytes = window.size_bytes
        """Of what is attached: a part of the region's window, where that was asked for."""

    @property
    def memory(self) -> memoryview:
        """All that is attached as a writable buffer. Touching it outside all mappings causes SIGSEGV."""
        return self.view(0, self.window_bytes)

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """A part of what is attached as a writable buffer; must not be used after `detach`. The offset counts
        from the beginning of that."""
        if self._window is None:
            raise InvalidRequest("the region is detached; attach it again to use its memory")
        if offset < 0 or size_bytes < 0 or offset + size_bytes > self.window_bytes:
            raise InvalidRequest(
                f"{size_bytes} bytes at offset {offset} are outside the window of"
                f" {format_size(self.window_bytes)}"
            )
        return syscalls.memory(self.address + offset, size_bytes)

    def detach(self) -> None:
        """Unmap the window; twice is fine."""
        if self._window is not None:
            self._window.detach()
            self._window = None

    def __bool__(self) -> bool:
        return self._window is not None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


class Region:
    """An open region; a context manager, true while open.

    An error of the kernel is an OSError with its errno; an invalid request is refused with
    InvalidRequest before.
    """

    def __init__(self, backend: Backend, file: RegionFile) -> None:
        self._backend = backend
        self._file = file

    @classmethod
    def create(
        cls,
        name: str,
        size: Size | None = None,
        *,
        mappings: Iterable[Mapping] = (),
        window: Size | None = None,
        address: int | None = None,
        mode: int = 0o600,
        overcommit: bool = False,
        backend: Backend | None = None,
    ) -> Region:
        """Create a region with `size` of anonymous memory, with the objects in `mappings`, or an empty one
        with only a `window`.

        Since generation 2025-08 the region lives and dies with the calling *thread*, and in 2026-05 it ends
        for everybody when what is returned here is closed. `address` is only used by generations that need
        one address for all. If this fails, the region is unlinked again.
        """
        backend = backend or connect()
        planned = blueprint(name, backend, size, mappings, window, address)
        file = backend.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        region = cls(backend, file)
        try:
            file.set_size(planned.window_bytes, planned.address)
            if backend.generation.features.explicit_mappings:
                for mapping in planned.mappings:
                    region.map(mapping, overcommit=overcommit)
        except BaseException:
            region.close()
            # One without a file is gone already.
            with contextlib.suppress(FileNotFoundError):
                backend.unlink(name)
            raise
        return region

    @classmethod
    def open(cls, name: str, *, read_only: bool = False, backend: Backend | None = None) -> Region:
        """Open an existing region. In practice, any user who may open it may write to it."""
        rules.region_name(name)
        backend = backend or connect()
        return cls(backend, backend.open(name, os.O_RDONLY if read_only else os.O_RDWR))

    @property
    def name(self) -> str:
        return self._file.name

    @property
    def path(self) -> str:
        return self._backend.path(self.name)

    def map(self, mapping: Mapping, *, overcommit: bool = False, replace: bool = False) -> str | None:
        """Map an object into the region, for all processes; `replace` allows to replace a mapping.

        What the owner wrote down is changed as well, for a kernel does not list what is mapped. Returns why
        that could not be done: on a kernel, `mshare list` then shows what was mapped before.
        """
        change = Change.to(mapping)
        with recorded(self._backend.root, self.name, change):
            self._map(mapping, overcommit, replace)
        return change.unrecorded

    def _map(self, mapping: Mapping, overcommit: bool, replace: bool) -> None:
        flags = abi.MAP_SHARED | abi.MAP_FIXED
        flags |= 0 if replace else abi.MAP_FIXED_NOREPLACE
        if mapping.kind == "file":
            if mapping.path is None:
                raise InvalidRequest(f"mapping at offset {mapping.offset} is a file without a path")
            access = os.O_RDWR if mapping.prot & abi.PROT_WRITE else os.O_RDONLY
            fd = os.open(mapping.path, access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                self._create(mapping, flags, fd)
            finally:
                os.close(fd)
            return
        flags |= abi.MAP_ANONYMOUS
        flags |= abi.MAP_HUGETLB | abi.MAP_HUGE_2MB if mapping.kind == "hugetlb" else 0
        flags |= abi.MAP_NORESERVE if overcommit else 0
        self._create(mapping, flags, -1)

    def _create(self, mapping: Mapping, flags: int, fd: int) -> None:
        self._file.create_mapping(
            NewMapping(mapping.offset, mapping.size_bytes, mapping.prot, flags, fd, mapping.object_offset)
        )

    def map_anonymous(self, offset: int, size: Size, *, overcommit: bool = False) -> Mapping:
        """Map new zeroed memory at an offset."""
        mapping = Mapping(offset, round_up(parse_size(size), abi.PAGE_BYTES))
        self.map(mapping, overcommit=overcommit)
        return mapping

    def map_huge(self, offset: int, size: Size) -> Mapping:
        """Map memory in 2 MiB pages from the host's pool (ENOMEM if it is too small)."""
        mapping = Mapping(offset, round_up(parse_size(size), abi.HUGE_PAGE_BYTES), "hugetlb")
        self.map(mapping)
        return mapping

    def map_file(
        self,
        path: str,
        offset: int,
        size: Size | None = None,
        *,
        file_offset: int = 0,
        writable: bool = False,
    ) -> Mapping:
        """Map a file, whole from `file_offset` unless a size is given."""
        if size is None:
            size = os.stat(path).st_size - file_offset
        prot = abi.PROT_READ | (abi.PROT_WRITE if writable else 0)
        size_bytes = round_up(parse_size(size), abi.PAGE_BYTES)
        mapping = Mapping(offset, size_bytes, "file", prot, os.path.abspath(path), file_offset)
        self.map(mapping)
        return mapping

    def unmap(self, offset: int, size: Size) -> str | None:
        """Unmap a range for all processes; anonymous memory in it is freed. Returns as `map`."""
        size_bytes = parse_size(size)
        change = Change(offset, size_bytes)
        with recorded(self._backend.root, self.name, change):
            self._file.unmap(offset, size_bytes)
        return change.unrecorded

    def protect(self, offset: int, size: Size, access: str) -> str | None:
        """Change the protection of what is mapped in a range to "r" or "rw", for all processes at once.

        EOPNOTSUPP in a generation that cannot, ENOMEM where nothing is mapped, EACCES for a file that was
        not open for writing when it was mapped. Returns as `map`.
        """
        prot = protection(access)
        change = Change(offset, parse_size(size), prot=prot)
        with recorded(self._backend.root, self.name, change):
            self._file.protect(offset, change.size_bytes, prot)
        return change.unrecorded

    def advise(self, offset: int, size: Size, advice: str) -> None:
        """Advise on what is mapped in a range, for all processes at once, as madvise(2) would for one:
        "dontneed" drops the page tables, "remove" the memory as well (it reads as zeroes then); "hugepage"
        and "nohugepage" say where transparent huge pages are wanted.

        EOPNOTSUPP in a generation that cannot, ENOMEM where nothing is mapped.
        """
        if advice not in ADVICE:
            raise InvalidRequest(f"advice {advice!r} is unknown; write one of " + ", ".join(ADVICE))
        self._file.advise(offset, parse_size(size), ADVICE[advice])

    def attach(
        self,
        address: int | None = None,
        *,
        read_only: bool = False,
        offset: int = 0,
        size: Size | None = None,
    ) -> Attachment:
        """Map the region into this process, at any aligned address unless an address is given or fixed.

        `offset` and `size` choose a part of it, both multiples of the alignment: EOPNOTSUPP in a generation
        that cannot. `read_only` is needed for a region opened read-only. It protects nothing: on a kernel a
        store succeeds wherever the inner mapping is writable.
        """
        geometry = self._file.geometry()
        rules.address(address, self._backend.alignment_bytes)
        partly = offset != 0 or size is not None
        if partly and not self._backend.generation.features.partial_attach:
            raise not_supported("a part of a region cannot be attached", self._backend.generation)
        size_bytes = geometry.window_bytes - offset if size is None else parse_size(size)
        where = geometry.address if geometry.address is not None else address
        flags = abi.MAP_SHARED | (abi.MAP_FIXED_NOREPLACE if where is not None else 0)
        prot = abi.PROT_READ | (0 if read_only else abi.PROT_WRITE)
        return Attachment(self._file.attach(size_bytes, prot, flags, where, offset))

    def set_access(self, mode: int, uid: int = -1, gid: int = -1) -> None:
        """chmod and chown; -1 leaves the user or the group as it is."""
        self._file.set_access(mode, uid, gid)

    def stat(self) -> RegionStat:
        """The current state of the region."""
        geometry = self._file.geometry()
        status = os.fstat(self._file.fd)
        mappings = self._file.mappings()
        return RegionStat(
            name=self.name,
            path=self.path,
            backend=self._backend.name,
            generation=self._backend.generation.id,
            address=geometry.address,
            window_bytes=geometry.window_bytes,
            mapped_bytes=None if mappings is None else sum(mapping.size_bytes for mapping in mappings),
            mappings=mappings,
            mode=status.st_mode & 0o7777,
            uid=status.st_uid,
            gid=status.st_gid,
        )

    def unlink(self) -> None:
        """Remove the name; the region lives on while it is open or mapped anywhere."""
        self._backend.unlink(self.name)

    def close(self) -> None:
        """Close it; attachments stay. In generation 2026-05, closing what `create` returned ends the region
        for everybody. Twice is fine."""
        self._file.close()

    def __bool__(self) -> bool:
        return self._file.fd >= 0

    def __enter__(self) -> Region:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def unlink(name: str, backend: Backend | None = None) -> None:
    """Remove a region's name."""
    (backend or connect()).unlink(rules.region_name(name))


def list_regions(backend: Backend | None = None) -> list[str]:
    """The names of all regions."""
    return (backend or connect()).names()
