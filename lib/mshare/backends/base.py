# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one seam: what a backend can be asked, in the kernel's own terms.

A backend answers with the kernel's errno (OSError). Names, sizes and addresses are checked for sense
one floor higher, in `rules`; here they are only passed on.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..kernel import abi
from ..kernel.calls.base import Geometry
from ..kernel.generations import Generation
from ..kernel.syscalls import NewMapping
from .mapping import Mapping
from .pieces import Pieces


class Window(ABC):
    """A region's address range in this process."""

    address: int
    size_bytes: int

    @abstractmethod
    def detach(self) -> None:
        """Unmap the whole window (a part cannot be unmapped); twice is fine."""


class RegionFile(ABC):
    """An open region: a file on msharefs, or a descriptor without a name."""

    name: str
    fd: int

    @abstractmethod
    def set_size(self, window_bytes: int, address: int | None = None) -> None:
        """Give the region its only size: a multiple of the alignment, EINVAL otherwise."""

    @abstractmethod
    def geometry(self) -> Geometry:
        """Where the region must lie and how large it is."""

    @abstractmethod
    def create_mapping(self, new: NewMapping) -> None:
        """Map an object inside the region, for everybody attached now or later."""

    @abstractmethod
    def unmap(self, offset_bytes: int, size_bytes: int) -> None:
        """Unmap a range inside the region, for everybody."""

    @abstractmethod
    def attach(
        self,
        size_bytes: int,
        prot: int = abi.PROT_READ | abi.PROT_WRITE,
        flags: int = abi.MAP_SHARED,
        address: int | None = None,
        offset_bytes: int = 0,
    ) -> Window:
        """Map the window into this process: all of the region, at an aligned address; or, in a generation
        that can, an aligned part of it."""

    @abstractmethod
    def protect(self, offset_bytes: int, size_bytes: int, prot: int) -> None:
        """Change the protection of what is mapped in a range, for everybody: as mprotect(2)."""

    @abstractmethod
    def advise(self, offset_bytes: int, size_bytes: int, advice: int) -> None:
        """Advise on what is mapped in a range, for everybody: as madvise(2)."""

    def mappings(self) -> list[Mapping] | None:
        """What is mapped inside, or None where the backend cannot tell (a kernel does not list it)."""
        return None

    def pieces(self) -> Pieces | None:
        """What a window consists of, for the caller to close; None where mmap of the file maps all of it."""
        return None

    def set_access(self, mode: int, uid: int = -1, gid: int = -1) -> None:
        """chown and chmod; -1 leaves the owner or the group as it is."""
        os.fchown(self.fd, uid, gid)
        os.fchmod(self.fd, mode)

    def close(self) -> None:
        """Close it; windows stay attached. The creator's of a region without a file ends that region. Twice
        is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Backend(ABC):
    """A mounted msharefs, real or simulated."""

    name: str
    root: str
    generation: Generation
    alignment_bytes: int

    @abstractmethod
    def open(self, name: str, flags: int, mode: int = 0o600) -> RegionFile:
        """open(2) of a region file; the name has the directories that it is in (sales/sga)."""

    @abstractmethod
    def unlink(self, name: str) -> None:
        """Remove a region's name; the region lives on while it is open or mapped."""

    @abstractmethod
    def names(self) -> list[str]:
        """The regions that have a name, sorted, as far as this user may read the directories."""

    def clear_away(self, is_mine: Callable[[str], bool]) -> None:  # noqa: B027
        """Remove what is left of regions that somebody was making or removing who was killed: only of this
        user's, and only with such names. Of a kernel's there is nothing that is half a region."""

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)
