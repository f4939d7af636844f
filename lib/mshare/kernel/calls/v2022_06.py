# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2022-06 (v2, Khalid Aziz): the creator's first mmap sets address and size; read() returns them."""

from __future__ import annotations

import errno
import os
import struct

from .. import abi, syscalls
from ..generations import GENERATIONS
from .base import Calls, Geometry


class V2022_06(Calls):
    generation = GENERATIONS["2022-06"]

    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        # The mmap that sets the size also attaches the creator; it is unmapped again, so that every
        # attachment, also the creator's, works the same way afterwards.
        # A second mmap would be an ordinary attachment, so the kernel would not refuse it.
        if self.geometry(fd).window_bytes:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL) + ": the region has its size already")
        where = syscalls.mmap(
            address,
            window_bytes,
            abi.PROT_READ | abi.PROT_WRITE,
            abi.MAP_SHARED | abi.MAP_FIXED_NOREPLACE,
            fd,
        )
        try:
            if self.geometry(fd) != Geometry(where, window_bytes):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL) + ": the kernel set another size")
        finally:
            syscalls.munmap(where, window_bytes)

    def geometry(self, fd: int) -> Geometry:
        # Two u64, start and size; zeroes before the first mmap. Read through a separate open file, because
        # a second read() on the same descriptor may be past the end.
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            start, size = struct.unpack("=QQ", os.read(reader, abi.INFO_STRUCT_BYTES))
        finally:
            os.close(reader)
        return Geometry(start if size else None, size)
