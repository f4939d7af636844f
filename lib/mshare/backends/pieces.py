# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a window consists of, for programs in C: they map a region by themselves, and do not read its record.

A record may be written by users who are not trusted with more than their region. So it is read, and what it
names is checked and opened, by the library alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A range of a window, and which bytes of which file are mapped there."""

    serial: int
    """Tells a new object from the one it replaced."""
    offset: int
    size_bytes: int
    prot: int
    object_offset: int
    fd: int | None
    """Where this process has the file open; None for the region's own."""
    refused: int = 0
    """errno, where this process may not open the object: the range is a hole."""


class Pieces(ABC):
    """The pieces of a region that is open, as they change."""

    bell: int
    """A descriptor that is readable once the region has changed."""

    @abstractmethod
    def heard(self) -> None:
        """Wait for the next change from now on."""

    @abstractmethod
    def current(self) -> list[Piece] | None:
        """What is mapped now; None once the region has ended. Descriptors are valid until the next call."""

    @abstractmethod
    def close(self) -> None:
        """Close all; twice is fine."""
