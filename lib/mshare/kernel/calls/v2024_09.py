# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2024-09 (RFC v3, Anthony Yznaga): ioctls for size and mappings, by address; nothing can be unmapped."""

from __future__ import annotations

import errno
import os

from .. import abi, syscalls
from ..generations import GENERATIONS
from ..syscalls import NewMapping
from .base import Calls, Geometry


class V2024_09(Calls):
    generation = GENERATIONS["2024-09"]

    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        syscalls.set_size(fd, address or 0, window_bytes)

    def geometry(self, fd: int) -> Geometry:
        info = syscalls.get_size(fd)
        return Geometry(int(info.start) if info.size else None, int(info.size))

    def address_of(self, fd: int, offset_bytes: int) -> int:
        """The address of an offset in every process, because this generation has no offsets."""
        start = self.geometry(fd).address
        if start is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL) + ": the region has no size yet")
        return start + offset_bytes

    def create_mapping(self, fd: int, new: NewMapping) -> None:
        where = self.address_of(fd, new.offset_bytes)
        syscalls.create_mapping(fd, abi.CREATE_MAPPING_BY_ADDRESS, where, new)
