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
call has a number in `abi.CALL_NUMBERS`, so none is ever made.
"""

from __future__ import annotations

import os

from ..generations import DESCRIBED, not_supported
from ..probe import call
from ..syscalls import NewMapping
from .v2025_04 import V2025_04


class V2026_05(V2025_04):
    """Unavailable until the calls have numbers."""

    generation = DESCRIBED["2026-05"]

    def create(self) -> int:
        """A new region without a size; the descriptor, which is the region as long as it is open here."""
        return call("mshare_create", os.O_CLOEXEC)

    def attach(self, fd: int, offset_bytes: int, size_bytes: int, address: int | None, flags: int) -> int:
        """Map a part of a region; the address."""
        return call("mshare_attach", fd, offset_bytes, size_bytes, address or 0, flags)

    def create_mapping(self, fd: int, new: NewMapping) -> None:
        where = (new.offset_bytes, new.size_bytes, new.prot, new.flags)
        call("mshare_map", fd, *where, new.object_fd, new.object_offset_bytes)

    def unmap(self, fd: int, offset_bytes: int, size_bytes: int) -> None:
        raise not_supported("objects cannot be unmapped", self.generation)

    def advise(self, fd: int, offset_bytes: int, size_bytes: int, advice: int) -> None:
        call("mshare_advise", fd, offset_bytes, size_bytes, advice)

    def protect(self, fd: int, offset_bytes: int, size_bytes: int, prot: int) -> None:
        call("mshare_protect", fd, offset_bytes, size_bytes, prot)
