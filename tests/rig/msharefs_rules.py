# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of an msharefs region, for every generation, without any file system.

A test double must not share code with what it tests: the numbers and layouts below are written
down here a second time on purpose, so that a wrong number in the library cannot hide.
Every refusal is an OSError carrying the errno which the kernel would give.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable, NoReturn

PAGE_BYTES = 4096
DEFAULT_ALIGNMENT_BYTES = 512 << 30
ADDRESS_SPACE_BYTES = 1 << 47

PROT_WRITE = 0x2
MAP_TYPE, MAP_SHARED = 0x0F, 0x01
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MAP_HUGE_SHIFT, MAP_HUGE_MASK = 26, 0x3F
DEFAULT_HUGE_SHIFT = 21
NO_FD = 0xFFFFFFFF

Fields = dict[str, int]


@dataclass(frozen=True)
class Layout:
    """One ioctl argument: the C struct and the names of its members."""

    format: str
    names: tuple[str, ...]

    def decode(self, argument: bytes) -> Fields:
        return dict(zip(self.names, struct.unpack(self.format, argument)))


INFO = Layout("<QQ", ("start", "size"))
CREATE_TAIL = ("size", "offset", "prot", "flags", "fd")
CREATE_BY_ADDRESS = Layout("<QQQIII4x", ("addr", *CREATE_TAIL))
CREATE_BY_OFFSET = Layout("<QQQIII4x", ("region_offset", *CREATE_TAIL))
UNMAP_BY_ADDRESS = Layout("<QQ", ("addr", "size"))
UNMAP_BY_OFFSET = Layout("<QQ", ("region_offset", "size"))


@dataclass(frozen=True)
class Command:
    """What one ioctl number means."""

    name: str
    layout: Layout


@dataclass(frozen=True)
class Generation:
    """What tells one posted series from the others."""

    id: str
    commands: Mapping[int, Command] = field(default_factory=dict)
    sized_by: str = "truncate"
    """'mmap' (the first one), 'ioctl' (SET_SIZE) or 'truncate' (ftruncate, fallocate)."""
    has_objects: bool = False
    """Files and huge pages may be mapped inside, not only anonymous memory."""
    has_owner: bool = False
    """The region dies with the task that created it."""
    unsized_refuses_all: bool = False
    """Before the size is set, even an unknown ioctl number is EINVAL."""


BY_ADDRESS = {
    0x80107800: Command("GET_SIZE", INFO),
    0x40107801: Command("SET_SIZE", INFO),
    0x40287802: Command("CREATE_MAPPING", CREATE_BY_ADDRESS),
}
BY_OFFSET = {
    0x40287800: Command("CREATE_MAPPING", CREATE_BY_OFFSET),
    0x40107801: Command("UNMAP", UNMAP_BY_OFFSET),
}
GENERATIONS: Mapping[str, Generation] = {
    generation.id: generation
    for generation in (
        Generation("2022-06", sized_by="mmap"),
        Generation("2024-09", BY_ADDRESS, sized_by="ioctl"),
        Generation(
            "2025-01",
            {**BY_ADDRESS, 0x40107803: Command("UNMAP", UNMAP_BY_ADDRESS)},
            sized_by="ioctl",
        ),
        Generation("2025-04", BY_OFFSET),
        Generation("2025-08", BY_OFFSET, has_objects=True, has_owner=True, unsized_refuses_all=True),
    )
}


def refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


@dataclass
class ClientFile:
    """A file descriptor of the asking process, as the rules need to know it."""

    is_mappable: bool = True
    is_writable: bool = True
    is_on_msharefs: bool = False
    contents: io.FileIO | None = None


@dataclass
class Host:
    """What the rules ask about the machine; a test may replace any answer."""

    commit_limit_bytes: int = 1 << 62
    huge_bytes: int = 0
    open_client_file: Callable[[int, int], ClientFile] = lambda pid, fd: refuse(errno.EBADF)


@dataclass(frozen=True)
class Mapped:
    """One object inside a region: [start, end) as offsets into the region."""

    start: int
    end: int
    is_huge: bool = False
    contents: io.FileIO | None = None
    file_offset: int = 0

    def in_file(self, offset: int) -> int:
        return self.file_offset + offset - self.start

    def cut(self, start: int, end: int) -> list[Mapped]:
        """What is left of this object once [start, end) is gone."""
        if end <= self.start or self.end <= start:
            return [self]
        left = self._piece(self.start, min(start, self.end))
        right = self._piece(max(end, self.start), self.end)
        return [piece for piece in (left, right) if piece.start < piece.end]

    def _piece(self, start: int, end: int) -> Mapped:
        return Mapped(start, end, self.is_huge, self.contents, self.in_file(start))


class Region:
    """One region file: its size, the objects inside, their memory.

    Page traffic runs beside the ioctls without a lock: `mapped` is replaced as a whole, never
    edited, and `forget_cached` (which makes the kernel write back and drop its cached pages) must
    be able to reach `write_memory` while an ioctl is still being decided.
    """

    def __init__(
        self,
        generation: Generation,
        alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES,
        host: Host | None = None,
        forget_cached: Callable[[], None] = lambda: None,
    ) -> None:
        self.generation = generation
        self.alignment_bytes = alignment_bytes
        self.host = host or Host()
        self.forget_cached = forget_cached
        self.start = 0
        self.size_bytes = 0
        self.is_size_set = False
        self.is_dead = False
        self.mapped: list[Mapped] = []
        self.pages: dict[int, bytes] = {}
        self._one_ioctl = threading.Lock()

    # --- size ---------------------------------------------------------------------------------

    def truncate(self, size_bytes: int) -> None:
        """ftruncate; a size of 0 is accepted and uses up the only chance, as in the kernel."""
        if self.generation.sized_by != "truncate":
            refuse(errno.EINVAL)
        self._set_size_once(0, size_bytes)

    def fallocate(self, mode: int, offset: int, size_bytes: int) -> None:
        if mode or self.generation.sized_by != "truncate":
            refuse(errno.EOPNOTSUPP)
        if offset:
            refuse(errno.EINVAL)
        self._set_size_once(0, size_bytes)

    def first_mmap(self, start: int, size_bytes: int) -> None:
        """2022-06: the creator's mmap fixes address and size for everybody."""
        if self.generation.sized_by != "mmap":
            refuse(errno.EINVAL)
        self._set_size_once(start, size_bytes)

    def _set_size_once(self, start: int, size_bytes: int) -> None:
        if self.is_size_set or start % self.alignment_bytes or size_bytes % self.alignment_bytes:
            refuse(errno.EINVAL)
        self.start, self.size_bytes, self.is_size_set = start, size_bytes, True

    def info(self) -> bytes:
        """struct mshare_info, as GET_SIZE and the read(2) of 2022-06 give it."""
        return struct.pack(INFO.format, self.start, self.size_bytes)

    # --- ioctls -------------------------------------------------------------------------------

    def ioctl(self, number: int, argument: bytes = b"", pid: int = 0) -> bytes:
        """Answer one ioctl of process `pid`; the bytes are what goes back to the caller."""
        if self.generation.unsized_refuses_all and not self.size_bytes:
            refuse(errno.EINVAL)
        command = self.generation.commands.get(number)
        if command is None:
            refuse(errno.ENOTTY)
        with self._one_ioctl:
            if command.name == "GET_SIZE":
                return self.info()
            fields = command.layout.decode(argument)
            if command.name == "SET_SIZE":
                self._set_size(fields)
            elif command.name == "CREATE_MAPPING":
                self._create_mapping(fields, pid)
            else:
                self._unmap(fields)
        return b""

    def _set_size(self, fields: Fields) -> None:
        start, size_bytes = fields["start"], fields["size"]
        if not size_bytes or start + size_bytes > ADDRESS_SPACE_BYTES:
            refuse(errno.EINVAL)
        self._set_size_once(start, size_bytes)

    def _create_mapping(self, fields: Fields, pid: int) -> None:
        flags = fields["flags"]
        is_wrapping = fields.get("region_offset", 0) + fields["size"] + PAGE_BYTES > 1 << 64
        if is_wrapping and flags & MAP_TYPE == MAP_SHARED and flags & MAP_FIXED:
            # The sum is small, so the region's own check lets it pass; no address space has room for it.
            refuse(errno.ENOMEM)
        start, end = self._range(fields)
        if flags & MAP_TYPE != MAP_SHARED or not flags & MAP_FIXED or fields["offset"] % PAGE_BYTES:
            refuse(errno.EINVAL)
        if not self.generation.has_objects:
            self._check_only_anonymous(fields)
        if flags & MAP_FIXED_NOREPLACE and self._overlaps(start, end):
            refuse(errno.EEXIST)
        contents = None
        if flags & MAP_ANONYMOUS:
            self._check_memory(start, end, flags)
        else:
            contents = self._client_file(fields, pid).contents
        self._drop(start, end)
        is_huge = bool(flags & MAP_HUGETLB)
        self.mapped = [*self.mapped, Mapped(start, end, is_huge, contents, fields["offset"])]

    def _unmap(self, fields: Fields) -> None:
        self._drop(*self._range(fields))

    def _range(self, fields: Fields) -> tuple[int, int]:
        """The range asked for, as offsets into the region, whole pages."""
        start = fields["addr"] - self.start if "addr" in fields else fields["region_offset"]
        end = start + fields["size"]
        if not fields["size"] or start < 0 or start % PAGE_BYTES or end > self.size_bytes:
            refuse(errno.EINVAL)
        return start, end + -end % PAGE_BYTES

    def _check_only_anonymous(self, fields: Fields) -> None:
        flags = fields["flags"]
        if not flags & MAP_ANONYMOUS or flags & MAP_HUGETLB or fields["fd"] != NO_FD:
            refuse(errno.EINVAL)

    def _check_memory(self, start: int, end: int, flags: int) -> None:
        available_bytes = self.host.commit_limit_bytes
        if flags & MAP_HUGETLB:
            huge_page_bytes = 1 << (flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK or DEFAULT_HUGE_SHIFT)
            if start % huge_page_bytes or end % huge_page_bytes:
                refuse(errno.EINVAL)
            used_bytes = sum(each.end - each.start for each in self.mapped if each.is_huge)
            available_bytes = self.host.huge_bytes - used_bytes
        if end - start > available_bytes and not flags & MAP_NORESERVE:
            refuse(errno.ENOMEM)

    def _client_file(self, fields: Fields, pid: int) -> ClientFile:
        client_file = self.host.open_client_file(pid, fields["fd"])
        if client_file.is_on_msharefs or fields["flags"] & MAP_HUGETLB:
            refuse(errno.EINVAL)
        is_denied = fields["prot"] & PROT_WRITE and not client_file.is_writable
        if is_denied or not client_file.is_mappable:
            refuse(errno.EACCES)
        return client_file

    def _overlaps(self, start: int, end: int) -> bool:
        return any(each.start < end and start < each.end for each in self.mapped)

    def _drop(self, start: int, end: int) -> None:
        """Unmap [start, end): first for the rules, then in the page cache, last the memory.

        In this order, a dirty page that the kernel writes back late finds a hole and is lost, as
        it should be, and cannot show up in an object created there afterwards.
        """
        if not self._overlaps(start, end):
            return
        self.mapped = [piece for each in self.mapped for piece in each.cut(start, end)]
        self.forget_cached()
        for index in [i for i in list(self.pages) if start <= i * PAGE_BYTES < end]:
            self.pages.pop(index, None)

    def die(self) -> None:
        """The owner is gone: the memory with it; name, size and ioctls stay."""
        self.is_dead = True
        with self._one_ioctl:
            self._drop(0, self.size_bytes)

    # --- memory -------------------------------------------------------------------------------

    def read_memory(self, offset: int, size_bytes: int) -> bytes:
        """Whole pages for a page fault; EIO (a SIGBUS) where nothing is mapped, and beyond a file's end."""
        return b"".join(self._read_page(at) for at in range(offset, offset + size_bytes, PAGE_BYTES))

    def write_memory(self, offset: int, data: bytes) -> None:
        """Dirty pages coming back; those that fall into a hole are forgotten."""
        for position in range(0, len(data), PAGE_BYTES):
            page = data[position : position + PAGE_BYTES]
            self._write_page(offset + position, page.ljust(PAGE_BYTES, b"\0"))

    def _read_page(self, offset: int) -> bytes:
        if self.generation.sized_by == "mmap":
            return self._page_with_info(offset)
        mapped = self._mapped_at(offset)
        if mapped is None:
            refuse(errno.EIO)
        if mapped.contents is None:
            return self._stored(offset)
        page = os.pread(mapped.contents.fileno(), PAGE_BYTES, mapped.in_file(offset))
        if not page:
            refuse(errno.EIO)
        return page.ljust(PAGE_BYTES, b"\0")

    def _write_page(self, offset: int, page: bytes) -> None:
        mapped = self._mapped_at(offset)
        if mapped and mapped.contents:
            # A page of the file, which does not grow by it.
            left = os.fstat(mapped.contents.fileno()).st_size - mapped.in_file(offset)
            os.pwrite(mapped.contents.fileno(), page[: max(0, left)], mapped.in_file(offset))
        elif mapped or self.generation.sized_by == "mmap":
            self.pages[offset // PAGE_BYTES] = page

    def _stored(self, offset: int) -> bytes:
        return self.pages.get(offset // PAGE_BYTES, bytes(PAGE_BYTES))

    def _page_with_info(self, offset: int) -> bytes:
        """2022-06: read(2) and page faults arrive alike, so the info lies over the first bytes."""
        page = self._stored(offset)
        return page if offset else self.info() + page[struct.calcsize(INFO.format) :]

    def _mapped_at(self, offset: int) -> Mapped | None:
        if self.is_dead:
            return None
        return next((each for each in self.mapped if each.start <= offset < each.end), None)
