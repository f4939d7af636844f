# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a generation of the kernel's interface is: its features, and how its calls are made."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple


class Geometry(NamedTuple):
    """Where a region must lie (None: anywhere aligned) and how large its window is (0: not set)."""

    address: int | None
    window_bytes: int


@dataclass(frozen=True)
class Features:
    """What a generation can do; back-ports mix them, so they are recorded one by one."""

    size_set_by: str
    """"mmap" (the creator's first), "ioctl" or "ftruncate"."""
    mapping_kinds: tuple[str, ...]
    """Which objects a region takes: "anonymous", "hugetlb", "file"."""
    explicit_mappings: bool
    """Whether objects are mapped one by one; otherwise the whole window is anonymous memory."""
    unmap: bool
    any_address: bool
    """Whether each process may attach at an address of its own."""
    owner_bound: bool
    """Whether a region dies with the task that created it."""


class Generation(ABC):
    """One posted interface. File descriptors are open files on msharefs; errors are OSError."""

    id: str
    posted: str
    features: Features

    @abstractmethod
    def set_size(self, fd: int, window_bytes: int, address: int | None) -> None:
        """Give a fresh region its one and only size (and address, where it has one)."""

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
        """Unmap a range inside the region, for everybody."""
        raise not_supported("objects cannot be unmapped", self)


def not_supported(what: str, generation: Generation) -> OSError:
    """EOPNOTSUPP, for a call that a generation does not have at all."""
    message = f"{os.strerror(errno.EOPNOTSUPP)}: {what} in generation {generation.id}"
    return OSError(errno.EOPNOTSUPP, message)
