# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the running kernel that are written here, below a root that tests can choose."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ..errors import MshareError, Unavailable
from ..host import huge_pages
from ..host.huge_pages import Pool
from ..host.limits import Host

SHM_GROUP = "/proc/sys/vm/hugetlb_shm_group"
TRANSPARENT = "/sys/kernel/mm/transparent_hugepage/enabled"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_COMPACT = "/proc/sys/vm/compact_memory"
_NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Kernel:
    """Reads and writes settings of the kernel."""

    host: Host

    def boot_id(self) -> str | None:
        """What this boot of the kernel is known by; None where that is not shown."""
        text = self.host.read(_BOOT_ID)
        return None if text is None else text.strip()

    def pools(self) -> dict[tuple[int, int | None], Pool]:
        """Every pool by (page size, NUMA node)."""
        return {(pool.page_bytes, pool.node): pool for pool in huge_pages.pools(self.host.root)}

    def pool(self, page_bytes: int, node: int | None) -> Pool:
        """A pool as it is now; Unavailable if the kernel has no such pool."""
        pool = self.pools().get((page_bytes, node))
        if pool is None:
            raise Unavailable(
                f"{huge_pages.nr_file(page_bytes, node)} is missing: this kernel has no such pool"
            )
        return pool

    def set_pages(self, page_bytes: int, node: int | None, count: int) -> None:
        """Ask the kernel for a number of pages. What it granted is read from the pool."""
        self.write(huge_pages.nr_file(page_bytes, node), str(count))

    def setting(self, path: str) -> str | None:
        """A setting's value, of several words the chosen one; None where the kernel has no such setting."""
        text = self.host.read(path)
        if text is None:
            return None
        chosen = [word[1:-1] for word in text.split() if word.startswith("[")]
        return chosen[0] if chosen else text.strip()

    def write(self, path: str, text: str) -> None:
        """Write a setting; Unavailable where this process may not, MshareError where the kernel refuses."""
        try:
            with open(self.host.path(path), "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            if error.errno in _NO_PERMISSION:
                raise self.read_only(path) from None
            raise MshareError(
                f"the kernel refuses {text} in {path} ({error.strerror}); see its log (`dmesg`), and set"
                " pages of 1 GiB on its command line"
            ) from None

    def require_writable(self, path: str) -> None:
        """Raise what `write` would raise for want of permission."""
        if os.path.exists(self.host.path(path)) and not os.access(self.host.path(path), os.W_OK):
            raise self.read_only(path)

    def read_only(self, path: str) -> Unavailable:
        """Why a setting may not be written, and what to do about it."""
        if os.geteuid() != 0:
            return Unavailable(
                f"{path} may be written by root only, and this is uid {os.geteuid()}; run as root"
                " (become: true)"
            )
        inside = self.host.container()
        where = f"this is a container ({inside}), and" if inside else "it is mounted read-only here;"
        return Unavailable(
            f"{path} cannot be written: {where} huge pages belong to the machine as a whole; run this on the"
            " machine itself"
        )

    def compact(self, node: int | None) -> None:
        """Have the kernel put free memory together; where it cannot be asked to, nothing happens."""
        path = _COMPACT if node is None else f"/sys/devices/system/node/node{node}/compact"
        if os.path.exists(self.host.path(path)):
            try:
                self.write(path, "1")
            except MshareError:
                return
