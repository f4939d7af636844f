# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python's standard library lacks: mmap at an address, and mshare's ioctls.

Every function raises OSError with the kernel's errno. Addresses and sizes are integers of bytes.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..errors import Unavailable
from . import abi

_CFFI_ERROR: ImportError | None = None
try:
    from ._libc import ffi  # type: ignore[attr-defined,unused-ignore]
except ImportError as error:  # pragma: no cover - tested in a process of its own without cffi
    ffi = None
    _CFFI_ERROR = error
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_library: Any = None


class NewMapping(NamedTuple):
    """An object that is to be mapped inside a region: where, and what mmap(2) would be given for it."""

    offset_bytes: int
    size_bytes: int
    prot: int
    flags: int
    object_fd: int = -1
    object_offset_bytes: int = 0


def _c() -> Any:
    """The C library, opened at the first call, so that importing this module needs no cffi."""
    global _library
    if _library is None:
        if ffi is None:
            raise Unavailable(
                f"mapping memory at an address needs cffi, but this Python does not have it ({_CFFI_ERROR});"
                " install the package python3-cffi, or `pip install cffi`"
            )
        _library = ffi.dlopen(None)
    return _library


def require() -> None:
    """Raise Unavailable, with the next step, if cffi is missing."""
    _c()


def _check(result: int, path: str | None = None) -> int:
    if result == -1:
        raise OSError(ffi.errno, os.strerror(ffi.errno), path)
    return result


def mmap(address: int | None, size_bytes: int, prot: int, flags: int, fd: int, offset_bytes: int = 0) -> int:
    """mmap(2); returns the address."""
    library = _c()
    where = ffi.cast("void *", address or 0)
    result = library.mmap(where, size_bytes, prot, flags, fd, offset_bytes)
    mapped = int(ffi.cast("uintptr_t", result))
    _check(-1 if mapped == (1 << 64) - 1 else 0)
    return mapped


def munmap(address: int, size_bytes: int) -> None:
    """munmap(2)."""
    _check(_c().munmap(ffi.cast("void *", address), size_bytes))


def madvise(address: int, size_bytes: int, advice: int) -> None:
    """madvise(2)."""
    _check(_c().madvise(ffi.cast("void *", address), size_bytes, advice))


def memory(address: int, size_bytes: int) -> memoryview:
    """The bytes at an address as a writable view; valid until they are unmapped."""
    _c()
    return memoryview(ffi.buffer(ffi.cast("char *", address), size_bytes)).cast("B")


def _ioctl(fd: int, request: int, struct: Any) -> None:
    # Variadic arguments must be cdata: cffi cannot guess the C type of a Python value.
    _check(_c().ioctl(fd, ffi.cast("unsigned long", request), struct))


def get_size(fd: int) -> Any:
    """MSHAREFS_GET_SIZE (2024-09, 2025-01): struct mshare_info with start and size."""
    _c()
    info = ffi.new("struct mshare_info *")
    _ioctl(fd, abi.GET_SIZE, info)
    return info


def set_size(fd: int, start: int, size_bytes: int) -> None:
    """MSHAREFS_SET_SIZE (2024-09, 2025-01)."""
    _c()
    _ioctl(fd, abi.SET_SIZE, ffi.new("struct mshare_info *", {"start": start, "size": size_bytes}))


def create_mapping(fd: int, request: int, where: int, new: NewMapping) -> None:
    """MSHAREFS_CREATE_MAPPING with the generation's number; `where` is an address or an offset."""
    _c()
    fields = {
        "where": where,
        "size": new.size_bytes,
        "offset": new.object_offset_bytes,
        "prot": new.prot,
        "flags": new.flags,
        "fd": new.object_fd & 0xFFFFFFFF,
    }
    _ioctl(fd, request, ffi.new("struct mshare_create *", fields))


def unmap(fd: int, request: int, where: int, size_bytes: int) -> None:
    """MSHAREFS_UNMAP with the generation's number."""
    _c()
    _ioctl(fd, request, ffi.new("struct mshare_unmap *", {"where": where, "size": size_bytes}))


def punch_hole(fd: int, offset_bytes: int, size_bytes: int) -> None:
    """Free a range of a file; it reads as zeroes afterwards."""
    _check(_c().fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset_bytes, size_bytes))


def adopt_orphans() -> None:
    """Become the parent of processes orphaned by children of this process (PR_SET_CHILD_SUBREAPER)."""
    _check(_c().prctl(_PR_SET_CHILD_SUBREAPER, ffi.cast("unsigned long", 1)))


def die_with_parent(signal_number: int) -> None:
    """Make the kernel send this process a signal when the thread that forked it ends."""
    _check(_c().prctl(_PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal_number)))
