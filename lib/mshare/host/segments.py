# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""/proc/PID/maps -> the shared segments of a process, with an identity that all their users see."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from .. import paths
from ..kernel import abi
from ..pagetable import BASE_PAGE_BYTES
from ..units import GIB, MIB
from . import huge_pages, mounts, processes, procmap

MINIMUM_BYTES = MIB
"""Smaller ones cost no leaf table of their own that would be worth a row."""
_DELETED = b" (deleted)"
ANONYMOUS_KINDS = ("anonymous", "sysv", "memfd")
"""Kinds of segment that have no file which anybody could open."""
SHMEM_KINDS = (*ANONYMOUS_KINDS, "posix", "tmpfs")
"""Kinds of segment that are memory of shmem: the kernel can put them into transparent huge pages."""
# What shared mappings of maps look like between address and offset; the fourth letter says shared.
_SHARED = (b"-s ", b"xs ")
_MFD_CLOEXEC, _MFD_HUGETLB, _HUGE_MASK_SHIFT = 1, 4, 26
_OWN_MEMORY = re.compile(rf"/dev/shm/msharefs-\d+/|/memfd:{paths.REGION_MEMORY}")
_SYSV = b"/SYSV"
_NAMED_ANONYMOUS = b"[anon_shmem:"
"""How maps begins the name that a program, like PHP, gave its shared anonymous memory (prctl, Linux 6.2)."""


class Mapping(NamedTuple):
    """A shared mapping: one line of maps."""

    start: int
    end: int
    offset: int
    writable: bool
    device: bytes
    """As maps writes it; of System V memory with the IPC namespace, within which its ids are unique."""
    inode: int
    path: bytes

    @property
    def identity(self) -> tuple[bytes, int]:
        """The same for everybody who has it mapped, wherever and under whatever name."""
        return self.device, self.inode


Mappings = tuple[Mapping, ...]


class _Sibling(NamedTuple):
    """A process that others are compared with."""

    questions: tuple[procmap.Question, ...]
    """The others are asked for its large shared mappings, or for all where none is large."""
    mappings: Mappings


class Reader:
    """Reads the shared mappings of processes: by asking for them where the kernel can, else from maps.

    Mappings are the same in all children of one parent, so each is taken apart once. Of a child that has as
    much mapped of what may be shared as another one, the kernel is asked for the very mappings of the other,
    which is quicker than having it look through all there are.
    """

    def __init__(self, querying: bool = True) -> None:
        self._querying = querying
        self._known: dict[object, Mapping | None] = {}
        self._sets: dict[tuple[object, ...], Mappings] = {}
        self._siblings: dict[tuple[int, str, int], _Sibling] = {}
        self._with_sysv: set[int] = set()
        """The sets, by their id, in which there is System V memory."""
        self._of_namespaces: dict[tuple[int, str | None], Mappings] = {}

    def shared(self, process: processes.Process) -> Mappings:
        """The shared mappings in order of address, without segments that are too small."""
        if self._querying:
            try:
                mappings = self._query(process)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise
                self._querying = False
        if not self._querying:
            mappings = self.parse(processes.read(process.path("maps")))
        if id(mappings) in self._with_sysv:
            return self._of_namespace(mappings, process.namespace("ipc"))
        return mappings

    def _query(self, process: processes.Process) -> Mappings:
        family = (process.parent, process.name, process.other_kib())
        fd = processes.opened(f"/proc/{process.pid}/maps")
        try:
            sibling = self._siblings.get(family)
            if sibling is None or not procmap.has(fd, sibling.questions):
                keys = tuple(procmap.shared(fd))
                for fields in keys:
                    if fields not in self._known:
                        self._known[fields] = _queried(fd, fields)
                mappings = self._set(keys)
                # A set: of mappings of its files or granules a program may have thousands.
                kept = set(mappings)
                large = tuple(fields for fields in keys if self._known[fields] in kept)
                questions = tuple(map(procmap.question, large or keys))
                sibling = self._siblings[family] = _Sibling(questions, mappings)
            return sibling.mappings
        finally:
            os.close(fd)

    def parse(self, content: bytes) -> Mappings:
        """The same from the text of maps."""
        keys = []
        for pattern in _SHARED:
            position = content.find(pattern)
            while position >= 0:
                start = content.rfind(b"\n", 0, position) + 1
                end = content.find(b"\n", position)
                line = content[start:end] if end >= 0 else content[start:]
                # Not a path with these letters in it.
                if line.find(b" ") + 3 == position - start:
                    keys.append(line)
                    if line not in self._known:
                        self._known[line] = _parse(line)
                position = content.find(pattern, len(content) if end < 0 else end)
        return self._set(tuple(keys))

    def _set(self, keys: tuple[object, ...]) -> Mappings:
        if keys not in self._sets:
            mappings = [mapping for mapping in map(self._known.__getitem__, keys) if mapping is not None]
            sizes_bytes: dict[tuple[bytes, int], int] = {}
            for mapping in mappings:
                size_bytes = sizes_bytes.get(mapping.identity, 0) + mapping.end - mapping.start
                sizes_bytes[mapping.identity] = size_bytes
            large = sorted(mapping for mapping in mappings if sizes_bytes[mapping.identity] >= MINIMUM_BYTES)
            self._sets[keys] = tuple(large)
            if any(mapping.path.startswith(_SYSV) for mapping in large):
                self._with_sysv.add(id(self._sets[keys]))
        return self._sets[keys]

    def _of_namespace(self, mappings: Mappings, namespace: str | None) -> Mappings:
        """The set with the namespace in which the ids of System V memory count.

        The kernel writes such an id where others have their inode. Each namespace begins anew with 0, and
        memory without a file has numbers as small on the same device.
        """
        key = (id(mappings), namespace)
        if key not in self._of_namespaces:
            within = f" {namespace or 'ipc'}".encode()
            self._of_namespaces[key] = tuple(
                mapping._replace(device=mapping.device + within)
                if mapping.path.startswith(_SYSV)
                else mapping
                for mapping in mappings
            )
        return self._of_namespaces[key]


def _queried(fd: int, fields: procmap.Fields) -> Mapping | None:
    start, end, flags, __, offset, inode, device = fields
    path = procmap.name(fd, start)
    if not _of_interest(path):
        return None
    return Mapping(start, end, offset, bool(flags & procmap.WRITABLE), procmap.device(device), inode, path)


def _of_interest(path: bytes) -> bool:
    # A device's memory or a ring buffer of the kernel is not a segment that could be placed elsewhere.
    of_device = path.startswith(b"/dev/") and not path.startswith((b"/dev/shm/", b"/dev/zero", b"/dev/huge"))
    return path.startswith((b"/", _NAMED_ANONYMOUS)) and not of_device


def _parse(line: bytes) -> Mapping | None:
    addresses, access, offset, device, inode, *rest = line.split(None, 5)
    path = rest[0] if rest else b""
    if not _of_interest(path):
        return None
    start, __, end = addresses.partition(b"-")
    return Mapping(
        int(start, 16), int(end, 16), int(offset, 16), access[1:2] == b"w", device, int(inode), path
    )


@dataclass(frozen=True)
class Filesystem:
    """What lies behind a device number of maps."""

    type: str
    source: str = ""
    page_bytes: int = BASE_PAGE_BYTES
    internal: bool = False
    places: list[tuple[str, str]] = field(default_factory=list)
    """Where it is mounted, and which directory of it."""


class Devices:
    """Device numbers -> file systems, of this mount namespace and of those that processes live in."""

    def __init__(self) -> None:
        self._known: dict[bytes, Filesystem] = {}
        self._seen: set[str] = set()
        # In this order, and no more than it takes: most segments lie in the kernel's own memory.
        self._to_learn = iter((self._memory, self._huge_memory, partial(self._learn, "self")))

    def _memory(self) -> None:
        self._internal(0, BASE_PAGE_BYTES)

    def _huge_memory(self) -> None:
        for page_bytes in huge_pages.sizes_bytes():
            self._internal(_MFD_HUGETLB | (page_bytes.bit_length() - 1) << _HUGE_MASK_SHIFT, page_bytes)

    def _internal(self, flags: int, page_bytes: int) -> None:
        # The kernel's own mounts for memory without a file are in nobody's mountinfo, but an empty
        # memfd lies on the same ones: it costs nothing, not even a huge page.
        with contextlib.suppress(OSError, AttributeError):
            fd = os.memfd_create("mshare-survey", _MFD_CLOEXEC | flags)
            device = os.fstat(fd).st_dev
            os.close(fd)
            name = f"{os.major(device):02x}:{os.minor(device):02x}".encode()
            kind = "hugetlbfs" if flags & _MFD_HUGETLB else "tmpfs"
            self._known[name] = Filesystem(kind, page_bytes=page_bytes, internal=True)

    def _learn(self, process: int | str) -> None:
        """What is mounted in a process's mount namespace, unless it is known."""
        # A kernel without namespaces has one for all.
        namespace = ""
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
        if namespace in self._seen:
            return
        self._seen.add(namespace)
        with contextlib.suppress(processes.Vanished, OSError):
            for mount in mounts.parse_mounts(processes.text(f"/proc/{process}/mountinfo")):
                major, __, minor = mount.device.partition(":")
                name = f"{int(major):02x}:{int(minor):02x}".encode()
                if name not in self._known:
                    huge = mount.filesystem == "hugetlbfs"
                    page_bytes = (mounts.huge_page_bytes(mount) or 2 * MIB) if huge else BASE_PAGE_BYTES
                    self._known[name] = Filesystem(mount.filesystem, mount.source, page_bytes)
                self._known[name].places.append((mount.path, mount.inside))

    def of(self, mapping: Mapping, pid: int) -> Filesystem:
        """The file system of a mapping in a process, which may live in a container."""
        device = mapping.device.partition(b" ")[0]
        if device not in self._known:
            for learn in self._to_learn:
                learn()
                if device in self._known:
                    break
            else:
                self._learn(pid)
        return self._known.get(device, Filesystem("unknown"))


class Kind(NamedTuple):
    """A segment as people call it."""

    kind: str
    name: str
    key: int | None
    page_bytes: int
    shares_tables: bool = False
    """Whether its page tables are a region's, which no process's VmPTE has."""
    region: str | None = None
    """Of an msharefs: the region, with the directories that it is in."""


def kind(mapping: Mapping, filesystem: Filesystem) -> Kind:
    """What sort of segment a mapping belongs to."""
    path = mapping.path[: -len(_DELETED)] if mapping.path.endswith(_DELETED) else mapping.path
    name = os.fsdecode(path)
    sysv = path.startswith(_SYSV) and len(path) == 13
    key = int(path[5:], 16) if sysv else None
    if filesystem.type == abi.FILESYSTEM:
        region = _region(name, filesystem)
        return Kind("msharefs", name, None, filesystem.page_bytes, shares_tables=True, region=region)
    if filesystem.source == paths.SIMULATED_SOURCE:
        return Kind("msharefs", name, None, filesystem.page_bytes, region=_region(name, filesystem))
    own = _OWN_MEMORY.match(name)
    if own:
        return Kind("msharefs", name, None, filesystem.page_bytes, region=name[own.end() :])
    word = _word(path, sysv, filesystem)
    if sysv:
        name = f"key 0x{key:08x}, id {mapping.inode}"
    elif path.startswith(_NAMED_ANONYMOUS):
        name = name[len(_NAMED_ANONYMOUS) : -1]
    elif filesystem.internal:
        name = name[7:] if path.startswith(b"/memfd:") else f"inode {mapping.inode}"
    return Kind(word, name, key, filesystem.page_bytes)


def _region(path: str, filesystem: Filesystem) -> str:
    """The name of a region by its path in a process's mount namespace, which may have only a directory of the
    msharefs; just the last part where the path is below none of the mounts that are known."""
    for mounted, inside in sorted(filesystem.places, key=lambda place: -len(place[0])):
        if path.startswith(mounted.rstrip("/") + "/"):
            return os.path.normpath(f"{inside}/{path[len(mounted) :]}").lstrip("/")
    return os.path.basename(path)


def _word(path: bytes, sysv: bool, filesystem: Filesystem) -> str:
    if filesystem.type == "hugetlbfs":
        return "hugetlb"
    if filesystem.internal or filesystem.type == "unknown":
        if sysv:
            return "sysv"
        if path.startswith(b"/memfd:"):
            return "memfd"
        return "anonymous" if path.startswith((b"/dev/zero", _NAMED_ANONYMOUS)) else "file"
    if filesystem.type == "tmpfs":
        return "posix" if path.startswith(b"/dev/shm/") else "tmpfs"
    return "file"


def congruent(mapping: Mapping) -> bool:
    """Whether huge pages of 2 MiB can be mapped where it lies."""
    return (mapping.start - mapping.offset) % (2 * MIB) == 0


def aligned_1gib(mapping: Mapping) -> bool:
    """Whether the mapping begins at 1 GiB: what sharing of PMD tables wants."""
    return mapping.start % GIB == 0 and mapping.offset % GIB == 0
