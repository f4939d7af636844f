# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A FUSE file system that plays an msharefs mount, real ioctl numbers and structs included.

    python tests/rig/fuse_msharefs.py MOUNTPOINT --generation 2025-08 [--alignment N] [--log FILE]

It runs in the foreground until SIGTERM or umount. The rules are in msharefs_rules.py; this file
only carries requests to them. What it cannot do as the kernel does it is listed in README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

# Dropping pages from the kernel's cache (fuse_invalidate_path) exists in libfuse 3 only, and
# mfusepy would take libfuse 2 if it found both.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

# It runs as a script.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mfusepy

from rig.msharefs_rules import (
    ADDRESS_SPACE_BYTES,
    DEFAULT_ALIGNMENT_BYTES,
    GENERATIONS,
    PAGE_BYTES,
    Generation,
    Host,
    Region,
    refuse,
)
from rig.proc_facts import (
    Task,
    commit_limit_bytes,
    device_of_mount,
    forced_by,
    open_client_file,
    shared_mapping,
)

INFO_PATH = "/mshare_info"
HIDDEN_PREFIX = ".fuse_hidden"
"""libfuse renames an open file to this instead of unlinking it, and unlinks it at last close."""
FUSE_IOCTL_DIR = 1 << 4
IOC_WRITE = 1 << 30
OWNER_CHECK_SECONDS = 0.1
ENDED_BY_SIGNAL = 8
"""libfuse's exit code for it; it is not told apart from other ends of its request loop."""


class RequestLog:
    """One JSON object per line, for tests that assert what the file system was asked."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, **record: Any) -> None:
        if self._file is None:
            return
        with self._lock:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()


@dataclass
class Node:
    """A name's file: a directory, mshare_info, or (with `region`) a region file."""

    inode: int
    mode: int
    uid: int
    gid: int
    region: Region | None = None
    owner: Task | None = None
    openers: set[int] = field(default_factory=set)
    time_ns: int = field(default_factory=time.time_ns)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True)
class Handle:
    node: Node
    is_uncached: bool
    """Opened so that the kernel passes every read on, and refuses a shared mmap."""


class Msharefs(mfusepy.Operations):  # type: ignore[misc]
    """One mount. Paths begin with a slash, as FUSE gives them."""

    use_ns = True

    def __init__(
        self,
        generation: Generation,
        mountpoint: str,
        alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES,
        host: Host | None = None,
        log: TextIO | None = None,
    ) -> None:
        self.generation = generation
        self.mountpoint = mountpoint
        self.alignment_bytes = alignment_bytes
        self.host = host or Host()
        self.log = RequestLog(log)
        self.info_text = f"{alignment_bytes}\n".encode()
        self.names: dict[str, Node] = {}
        self.handles: dict[int, Handle] = {}
        self._names_lock = threading.RLock()
        self._last_number = 0
        self._threads_with_own_getattr: set[int] = set()
        self._fuse: int | None = None
        self._ended = threading.Event()
        self.names["/"] = Node(self._number(), stat.S_IFDIR | 0o777, os.getuid(), os.getgid())
        self.names[INFO_PATH] = Node(self._number(), stat.S_IFREG | 0o444, os.getuid(), os.getgid())

    # --- life of the mount --------------------------------------------------------------------

    def init_with_config(self, connection: Any, _config: Any) -> None:
        # Read-ahead would ask for pages beyond the mapping which a touch was meant for.
        connection.max_readahead = 0
        self._fuse = mfusepy._libfuse.fuse_get_context().contents.fuse
        if self.generation.has_owner:
            threading.Thread(target=self._watch_owners, daemon=True).start()

    def destroy(self, _path: str) -> None:
        self._ended.set()
        self._fuse = None

    def _watch_owners(self) -> None:
        while not self._ended.wait(OWNER_CHECK_SECONDS):
            for node in list(self.names.values()):
                self._bury_if_owner_gone(node)

    def _bury_if_owner_gone(self, node: Node) -> None:
        region = node.region
        if region and not region.is_dead and node.owner and not node.owner.is_alive():
            region.die()
            self.log.write(op="owner_gone", inode=node.inode, pid=node.owner.tid)

    def _forget_cached(self, node: Node) -> None:
        """Make the kernel write back and drop all pages of a file; returns when it has."""
        path = next((path for path, each in list(self.names.items()) if each is node), None)
        if path and self._fuse:
            invalidate = mfusepy._libfuse.fuse_invalidate_path
            invalidate(ctypes.c_void_p(self._fuse), os.fsencode(path))

    # --- names --------------------------------------------------------------------------------

    def _number(self) -> int:
        with self._names_lock:
            self._last_number += 1
            return self._last_number

    def _node(self, path: str) -> Node:
        return self.names.get(path) or refuse(errno.ENOENT)

    def _children(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        rests = [each[len(prefix) :] for each in list(self.names) if each.startswith(prefix)]
        return [rest for rest in rests if rest and "/" not in rest]

    def _add(self, path: str, mode: int) -> Node:
        uid, gid, _pid = mfusepy.fuse_get_context()
        with self._names_lock:
            if path in self.names:
                refuse(errno.EEXIST)
            node = self.names[path] = Node(self._number(), mode, uid, gid)
        return node

    def _add_region(self, path: str, mode: int) -> Node:
        node = self._add(path, stat.S_IFREG | stat.S_IMODE(mode))
        _uid, _gid, pid = mfusepy.fuse_get_context()
        if self.generation.has_owner:
            node.owner = Task.find(pid)
        node.region = Region(
            self.generation, self.alignment_bytes, self.host, lambda: self._forget_cached(node)
        )
        self.log.write(op="create", path=path, pid=pid, mode=oct(stat.S_IMODE(mode)))
        return node

    def mkdir(self, path: str, mode: int) -> int:
        self._add(path, stat.S_IFDIR | stat.S_IMODE(mode))
        return 0

    def mknod(self, path: str, mode: int, _device: int) -> int:
        if not stat.S_ISREG(mode):
            refuse(errno.EPERM)
        self._add_region(path, mode)
        return 0

    def symlink(self, _target: str, _source: str) -> int:
        refuse(errno.EPERM)

    def link(self, _target: str, _source: str) -> int:
        refuse(errno.EPERM)

    def unlink(self, path: str) -> int:
        if path == INFO_PATH:
            refuse(errno.EPERM)
        with self._names_lock:
            del self.names[path]
        if not is_hidden(path):
            self.log.write(op="unlink", path=path)
        return 0

    def rmdir(self, path: str) -> int:
        with self._names_lock:
            # What was unlinked and is still open is none of a directory's content.
            if not all(map(is_hidden, self._children(path))):
                refuse(errno.ENOTEMPTY)
            del self.names[path]
        return 0

    def rename(self, old: str, new: str) -> int:
        if INFO_PATH in (old, new):
            refuse(errno.EPERM)
        with self._names_lock:
            if self._children(new):
                refuse(errno.ENOTEMPTY)
            inside = [path for path in self.names if path.startswith(f"{old}/")]
            for path in [old, *inside]:
                self.names[new + path[len(old) :]] = self.names.pop(path)
        self.log.write(op="unlink" if is_hidden(new) else "rename", path=old)
        return 0

    def readdir(self, path: str, _handle: Any) -> Iterator[tuple[str, dict[str, int], int]]:
        # An entry whose inode is left out counts as deleted to the C library.
        here = self._node(path)
        yield from ((name, {"st_ino": here.inode, "st_mode": here.mode}, 0) for name in (".", ".."))
        for name in self._children(path):
            node = self.names.get(f"{path.rstrip('/')}/{name}")
            if node and not is_hidden(name):
                yield name, {"st_ino": node.inode, "st_mode": node.mode}, 0

    # --- attributes ---------------------------------------------------------------------------

    def getattr(self, path: str, handle: Any = None) -> dict[str, Any]:
        node = self._node(path)
        # fstat() arrives without a handle. With one, it is either libfuse finishing its own
        # create or setattr, or the kernel preparing a cached read(2): the only place to refuse
        # it, as the page reads that follow look the same as those of a page fault.
        is_libfuse = threading.get_ident() in self._threads_with_own_getattr
        self._threads_with_own_getattr.discard(threading.get_ident())
        if node.region and handle is not None and not is_libfuse:
            self._before_read(node, node.region)
        return {
            "st_ino": node.inode,
            "st_mode": node.mode,
            "st_nlink": 2 if node.is_directory else 1,
            "st_uid": node.uid,
            "st_gid": node.gid,
            "st_size": self._size_shown(node.region),
            "st_atime": node.time_ns,
            "st_mtime": node.time_ns,
            "st_ctime": node.time_ns,
        }

    def _size_shown(self, region: Region | None) -> int:
        """The kernel refuses (SIGBUS) touches beyond st_size and asks for it at fstat, not at mmap.

        So a region whose size is not set through FUSE's own truncate must always look big enough.
        """
        if region is None:
            return 0
        if self.generation.sized_by == "truncate":
            return region.size_bytes
        return ADDRESS_SPACE_BYTES

    def _before_read(self, node: Node, region: Region) -> None:
        if self.generation.sized_by != "mmap":
            refuse(errno.EINVAL)
        self._learn_first_mmap(node, region)

    def _learn_first_mmap(self, node: Node, region: Region) -> None:
        """2022-06: FUSE does not tell of an mmap, but /proc/PID/maps of whoever opened it does."""
        if region.is_size_set or self.generation.sized_by != "mmap":
            return
        device = device_of_mount(self.mountpoint)
        for pid in sorted(node.openers):
            mapped = shared_mapping(pid, device, node.inode)
            if mapped and not any(number % self.alignment_bytes for number in mapped):
                region.first_mmap(*mapped)
                self.log.write(op="first_mmap", pid=pid, start=mapped[0], size=mapped[1])
                self._forget_cached(node)
                return

    def _expect_own_getattr(self) -> None:
        self._threads_with_own_getattr.add(threading.get_ident())

    def chmod(self, path: str, mode: int) -> int:
        node = self._node(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        self._expect_own_getattr()
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        node = self._node(path)
        node.uid = node.uid if uid == -1 else uid
        node.gid = node.gid if gid == -1 else gid
        self._expect_own_getattr()
        return 0

    def utimens(self, path: str, _times: Any = None) -> int:
        self._node(path)
        self._expect_own_getattr()
        return 0

    def truncate(self, path: str, length: int, _handle: Any = None) -> int:
        with self._logged(op="truncate", path=path, size=length):
            region = self._node(path).region
            if region is None:
                refuse(errno.EINVAL)
            region.truncate(length)
        self._expect_own_getattr()
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, _handle: Any) -> int:
        with self._logged(op="fallocate", path=path, mode=mode, offset=offset, size=size):
            region = self._node(path).region
            if region is None:
                refuse(errno.EOPNOTSUPP)
            region.fallocate(mode, offset, size)
        return 0

    # --- open files ---------------------------------------------------------------------------

    def create(self, path: str, mode: int, opened: Any) -> int:
        self._open(self._add_region(path, mode), opened)
        self._expect_own_getattr()
        return 0

    def open(self, path: str, opened: Any) -> int:
        node = self._node(path)
        if opened.flags & os.O_TRUNC:
            self.truncate(path, 0)
            self._threads_with_own_getattr.discard(threading.get_ident())
        self._bury_if_owner_gone(node)
        if node.region:
            self._learn_first_mmap(node, node.region)
        self._open(node, opened)
        return 0

    def _open(self, node: Node, opened: Any) -> None:
        _uid, _gid, pid = mfusepy.fuse_get_context()
        node.openers.add(pid)
        # The direct_io bit makes a shared mmap fail with ENODEV. The kernel's msharefs answers
        # the same for mshare_info, and EINVAL for a dead region.
        is_uncached = node.region is None or node.region.is_dead
        opened.direct_io = is_uncached
        opened.keep_cache = not is_uncached
        opened.nonseekable = node.region is not None and self.generation.sized_by != "mmap"
        opened.fh = self._number()
        self.handles[opened.fh] = Handle(node, is_uncached)

    def release(self, _path: str, opened: Any) -> int:
        self.handles.pop(opened.fh, None)
        return 0

    def flush(self, _path: str, _opened: Any) -> int:
        # The kernel then never asks again; otherwise clients of a dead server hang in close().
        refuse(errno.ENOSYS)

    def read(self, path: str, size: int, offset: int, opened: Any) -> bytes:
        handle = self.handles[opened.fh]
        if handle.node.region is None:
            return self.info_text[offset : offset + size]
        if handle.is_uncached:
            refuse(errno.EINVAL)
        self._log_forced(path, offset)
        return handle.node.region.read_memory(offset, size)

    def _log_forced(self, path: str, offset: int) -> None:
        """Note an access at which a kernel with mshare would warn: a page that is not present is fetched
        by the kernel itself, not by a touch."""
        _uid, _gid, pid = mfusepy.fuse_get_context()
        by = forced_by(pid)
        if by is not None:
            self.log.write(op="forced_page", path=path, pid=pid, offset=offset, by=by)

    def write(self, _path: str, data: bytes, offset: int, opened: Any) -> int:
        # Only what was stored through a mapping may come back; write(2) is refused.
        region = self.handles[opened.fh].node.region
        if region is None or not opened.writepage:
            refuse(errno.EINVAL)
        region.write_memory(offset, data)
        return len(data)

    def ioctl(self, path: str, number: int, _arg: Any, _opened: Any, flags: int, data: Any) -> int:
        number &= 0xFFFFFFFF
        _uid, _gid, pid = mfusepy.fuse_get_context()
        argument = ctypes.string_at(data, argument_bytes(number)) if data else b""
        with self._logged(**describe(self.generation, path, number, argument), pid=pid):
            region = self._node(path).region
            if region is None or flags & FUSE_IOCTL_DIR:
                refuse(errno.ENOTTY)
            reply = region.ioctl(number, argument, pid)
            ctypes.memmove(data, reply, len(reply))
        return 0

    @contextmanager
    def _logged(self, **record: Any) -> Iterator[None]:
        """Write one record when the block ends, with the errno it refused with, or 0."""
        answer: Any = 0
        try:
            yield
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, error.errno)
            raise
        finally:
            self.log.write(**record, errno=answer)


def is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith(HIDDEN_PREFIX)


def argument_bytes(number: int) -> int:
    """How much the caller hands over: direction and size are part of an ioctl's number."""
    return number >> 16 & 0x3FFF if number & IOC_WRITE else 0


def describe(generation: Generation, path: str, number: int, argument: bytes) -> dict[str, Any]:
    """The log's record of one ioctl: raw bytes and, for a known number, the decoded struct."""
    command = generation.commands.get(number)
    return {
        "op": "ioctl",
        "path": path,
        "number": f"{number:#010x}",
        "command": command.name if command else None,
        "bytes": argument.hex(),
        "fields": command.layout.decode(argument) if command and argument else {},
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--generation", choices=GENERATIONS, default="2025-08")
    parser.add_argument("--alignment", type=int, default=DEFAULT_ALIGNMENT_BYTES, metavar="BYTES")
    parser.add_argument("--log", type=Path, help="append what was asked here, as JSON lines")
    parser.add_argument(
        "--ram", type=int, metavar="BYTES", help="mappings above it are ENOMEM (default: as here)"
    )
    parser.add_argument(
        "--huge", type=int, default=0, metavar="BYTES", help="huge pages to pretend (default: 0)"
    )
    options = parser.parse_args(arguments)
    if options.alignment < PAGE_BYTES or options.alignment % PAGE_BYTES:
        parser.error(f"--alignment must be a multiple of {PAGE_BYTES}")
    return options


def main() -> int:
    options = parse_arguments()
    mountpoint = str(options.mountpoint.resolve())
    ram_bytes = commit_limit_bytes() if options.ram is None else options.ram
    host = Host(ram_bytes, options.huge, open_client_file)
    log = options.log.open("a", encoding="utf-8") if options.log else None
    operations = Msharefs(GENERATIONS[options.generation], mountpoint, options.alignment, host, log)
    serve(operations, mountpoint)
    return 0


def serve(operations: Msharefs, mountpoint: str) -> None:
    """Mount and answer until SIGTERM, SIGINT or umount."""
    try:
        mfusepy.FUSE(
            operations,
            mountpoint,
            raw_fi=True,
            foreground=True,
            fsname="msharefs",
            subtype="msharefs",
            allow_other=True,
            default_permissions=True,
            use_ino=True,
            attr_timeout=0,
            entry_timeout=0,
        )
    except RuntimeError as error:
        if error.args != (ENDED_BY_SIGNAL,):
            raise


if __name__ == "__main__":
    sys.exit(main())
