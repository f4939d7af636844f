# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel with the calls described in 2026: regions without a file, made and changed by those calls.

Names, permissions, the door and the record of what is mapped are the simulated backend's, which plays the
same generation. `connect` takes this one where the calls have numbers and the kernel has them: today nowhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import replace

from ..kernel import abi, syscalls
from ..kernel.calls.v2026_05 import V2026_05
from ..kernel.syscalls import NewMapping
from .base import Window
from .kernel import KernelWindow
from .mapping import Kind, Mapping
from .pieces import Pieces
from .simulated.backend import SimulatedBackend, SimulatedRegionFile
from .simulated.layout import Placed, within, without

_CALLS = V2026_05()


def _placed(new: NewMapping, serial: int) -> Placed:
    """What a new mapping is in a record."""
    kind: Kind = "file"
    path = None
    if new.flags & abi.MAP_ANONYMOUS:
        kind = "hugetlb" if new.flags & abi.MAP_HUGETLB else "anonymous"
    else:
        path = os.readlink(f"/proc/self/fd/{new.object_fd}")
    mapping = Mapping(new.offset_bytes, new.size_bytes, kind, new.prot, path, new.object_offset_bytes)
    return Placed(mapping, serial)


class CalledRegionFile(SimulatedRegionFile):
    """The kernel is asked first; what it did is then written down, because it lists nothing."""

    def set_size(self, window_bytes: int, address: int | None = None) -> None:
        with self._sidecar.change() as change:
            _CALLS.set_size(self.fd, window_bytes, address)
            change.record = replace(change.record, size_used=True, window_bytes=window_bytes)

    def create_mapping(self, new: NewMapping) -> None:
        with self._sidecar.change() as change:
            _CALLS.create_mapping(self.fd, new)
            record = change.record
            entry = _placed(new, record.next_serial)
            others = without(record.placed, entry.mapping.offset, entry.mapping.end)
            change.record = replace(record, placed=[*others, entry], next_serial=record.next_serial + 1)

    def unmap(self, offset_bytes: int, size_bytes: int) -> None:
        _CALLS.unmap(self.fd, offset_bytes, size_bytes)

    def protect(self, offset_bytes: int, size_bytes: int, prot: int) -> None:
        end = offset_bytes + size_bytes
        with self._sidecar.change() as change:
            _CALLS.protect(self.fd, offset_bytes, size_bytes, prot)
            placed = change.record.placed
            changed = [
                replace(part, mapping=replace(part.mapping, prot=prot))
                for part in within(placed, offset_bytes, end)
            ]
            change.record = replace(change.record, placed=[*without(placed, offset_bytes, end), *changed])

    def advise(self, offset_bytes: int, size_bytes: int, advice: int) -> None:
        _CALLS.advise(self.fd, offset_bytes, size_bytes, advice)

    def attach(
        self,
        size_bytes: int,
        prot: int = abi.PROT_READ | abi.PROT_WRITE,
        flags: int = abi.MAP_SHARED,
        address: int | None = None,
        offset_bytes: int = 0,
    ) -> Window:
        where = _CALLS.attach(self.fd, offset_bytes, size_bytes, address, flags)
        # As in backends/kernel.py: a core file reads pages that are not present.
        with contextlib.suppress(OSError):
            syscalls.madvise(where, size_bytes, abi.MADV_DONTDUMP)
        return KernelWindow(where, size_bytes)

    def pieces(self) -> Pieces | None:
        return None


class CalledBackend(SimulatedBackend):
    name = "kernel"
    region_file = CalledRegionFile
    memory_is_a_file = False

    def new_memory(self, name: str) -> int:
        return _CALLS.create()

    def reopened(self, memory_fd: int, flags: int) -> int:
        # There is one open description, whatever was asked for: protection is what is mapped inside alone.
        return fcntl.fcntl(memory_fd, fcntl.F_DUPFD_CLOEXEC, 0)
