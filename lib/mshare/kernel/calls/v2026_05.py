# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2026-05 (described at LSFMM+BPF, not posted): system calls on a descriptor without a name.

    fd = mshare_create(flags)                             O_CLOEXEC; ftruncate(fd, size) gives it its size
    address = mshare_attach(fd, offset, size, addr, flags)
    mshare_map(fd, offset, size, prot, flags, object)     an mmap inside the region
    mshare_advise(fd, offset, size, advice)
    mshare_protect(fd, offset, size, prot)

The order and the types of the arguments are what the report of the talk (LWN 1072333) lets one expect. No
call has a number, so none is ever made: `why_not` says so. On the day they are posted, NUMBERS is filled in.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ...errors import Unavailable
from ..generations import DESCRIBED, not_supported
from ..syscalls import NewMapping
from .v2025_04 import V2025_04

# The calls, and their numbers on x86-64. Nothing may be guessed here: a wrong number is another call.
NUMBERS: dict[str, int] = {}
CALLS = ("mshare_create", "mshare_attach", "mshare_map", "mshare_advise", "mshare_protect")
_NOT_POSTED = "not posted yet: the calls of generation 2026-05 have no numbers, so no kernel has them"
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why this kernel cannot be asked, in a sentence; None for one that has the calls."""
    if any(call not in NUMBERS for call in CALLS):
        return _NOT_POSTED
    try:
        # No flag is -1: a kernel with the call refuses it, and makes nothing.
        os.close(_call("mshare_create", -1))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return f"kernel {os.uname().release} has no mshare_create"
    return None


class V2026_05(V2025_04):
    """Unavailable until the calls have numbers."""

    generation = DESCRIBED["2026-05"]

    def create(self) -> int:
        """A new region without a size; the descriptor, which is the region as long as it is open here."""
        return _call("mshare_create", os.O_CLOEXEC)

    def attach(self, fd: int, offset_bytes: int, size_bytes: int, address: int | None, flags: int) -> int:
        """Map a part of a region; the address."""
        return _call("mshare_attach", fd, offset_bytes, size_bytes, address or 0, flags)

    def create_mapping(self, fd: int, new: NewMapping) -> None:
        where = (new.offset_bytes, new.size_bytes, new.prot, new.flags)
        _call("mshare_map", fd, *where, new.object_fd, new.object_offset_bytes)

    def unmap(self, fd: int, offset_bytes: int, size_bytes: int) -> None:
        raise not_supported("objects cannot be unmapped", self.generation)

    def advise(self, fd: int, offset_bytes: int, size_bytes: int, advice: int) -> None:
        _call("mshare_advise", fd, offset_bytes, size_bytes, advice)

    def protect(self, fd: int, offset_bytes: int, size_bytes: int, prot: int) -> None:
        _call("mshare_protect", fd, offset_bytes, size_bytes, prot)


def _call(name: str, *arguments: int) -> int:
    if name not in NUMBERS:
        raise Unavailable(f"{name} cannot be called, {_NOT_POSTED}; use the simulated backend")
    SYS_number = ctypes.c_long(NUMBERS[name])
    words = [ctypes.c_long(argument) for argument in arguments]
    done = int(_LIBC.syscall(SYS_number, *words))
    if done == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done
