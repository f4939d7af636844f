# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""2025-01 (v1): as 2024-09, and mappings can be unmapped."""

from __future__ import annotations

from .. import abi, syscalls
from ..generations import GENERATIONS
from .v2024_09 import V2024_09


class V2025_01(V2024_09):
    generation = GENERATIONS["2025-01"]

    def unmap(self, fd: int, offset_bytes: int, size_bytes: int) -> None:
        syscalls.unmap(fd, abi.UNMAP_BY_ADDRESS, self.address_of(fd, offset_bytes), size_bytes)
