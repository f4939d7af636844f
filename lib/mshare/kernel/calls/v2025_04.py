# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2025-04 (v2): the file size is the window, mappings have offsets, processes choose their addresses."""

from __future__ import annotations

import os

from .. import abi, syscalls
from ..generations import GENERATIONS
from ..syscalls import NewMapping
from .base import Calls, Geometry


class V2025_04(Calls):
    generation = GENERATIONS["2025-04"]

    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        os.ftruncate(fd, window_bytes)

    def geometry(self, fd: int) -> Geometry:
        return Geometry(None, os.fstat(fd).st_size)

    def create_mapping(self, fd: int, new: NewMapping) -> None:
        syscalls.create_mapping(fd, abi.CREATE_MAPPING_BY_OFFSET, new.offset_bytes, new)

    def unmap(self, fd: int, offset_bytes: int, size_bytes: int) -> None:
        syscalls.unmap(fd, abi.UNMAP_BY_OFFSET, offset_bytes, size_bytes)
