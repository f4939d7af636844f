# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The features of a generation of the kernel's interface, and how to call it."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple


class Geometry(NamedTuple):
    """The address of a region (None: any aligned address) and the size of its window (0: not set)."""

    address: int | None
    window_bytes: int


@dataclass(frozen=True)
class Features:
    """What a generation can do. Features are separate, because back-ports mix them."""

    size_set_by: str
    """"mmap" (the creator's first), "ioctl" or "ftruncate"."""
    mapping_kinds: tuple[str, ...]
    """Which objects a region can contain: "anonymous", "hugetlb", "file"."""
    explicit_mappings: bool
    """Whether objects are mapped one by one; otherwise the whole window is anonymous memory."""
    unmap: bool
    any_address: bool
    """Whether each process may attach at a different address."""
    owner_bound: bool
    """Whether a region dies with the task that created it."""


class Generation(ABC):
    """One posted interface. File descriptors are open files on msharefs; errors are OSError."""

    id: str
    posted: str
    features: Features

    @abstractmethod
    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        """Set the size of a new region, once (and its address, if it has one)."""

    @abstractmethod
    def geometry(self, fd: int) -> Geometry:
        """Ask the kernel for a region's address and window."""

    def create_mapping(
        self,
        fd: int,
        offset: int,
        size: int,
        prot: int,
        flags: int,
        object_fd: int,
        object_offset: int,
    ) -> None:
        """Map an object at an offset inside the region."""
        raise not_supported("objects cannot be mapped one by one", self)

    def unmap(self, fd: int, offset: int, size: int) -> None:
        """Unmap a range inside the region, for all processes."""
        raise not_supported("objects cannot be unmapped", self)


def not_supported(what: str, generation: Generation) -> OSError:
    """EOPNOTSUPP, for a call that a generation does not have."""
    message = f"{os.strerror(errno.EOPNOTSUPP)}: {what} in generation {generation.id}"
    return OSError(errno.EOPNOTSUPP, message)
