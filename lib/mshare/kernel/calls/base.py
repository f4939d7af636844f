# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked of a region's file in every generation of the kernel's interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from ..generations import Generation, not_supported
from ..syscalls import NewMapping


class Geometry(NamedTuple):
    """The address of a region (None: any aligned address) and the size of its window (0: not set)."""

    address: int | None
    window_bytes: int


class Calls(ABC):
    """How one generation is called. File descriptors are open files on msharefs; errors are OSError."""

    generation: Generation

    @abstractmethod
    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        """Set the size of a new region, once (and its address, if it has one)."""

    @abstractmethod
    def geometry(self, fd: int) -> Geometry:
        """Ask the kernel for a region's address and window."""

    def create_mapping(self, fd: int, new: NewMapping) -> None:
        """Map an object at an offset inside the region."""
        raise not_supported("objects cannot be mapped one by one", self.generation)

    def unmap(self, fd: int, offset_bytes: int, size_bytes: int) -> None:
        """Unmap a range inside the region, for all processes."""
        raise not_supported("objects cannot be unmapped", self.generation)

    def protect(self, fd: int, offset_bytes: int, size_bytes: int, prot: int) -> None:
        """Change the protection of what is mapped in a range, for all processes."""
        raise not_supported("protection cannot be changed", self.generation)

    def advise(self, fd: int, offset_bytes: int, size_bytes: int, advice: int) -> None:
        """Advise on what is mapped in a range, for all processes."""
        raise not_supported("advice cannot be given", self.generation)
