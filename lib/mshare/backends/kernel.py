# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel with mshare: msharefs itself, used by the calls of the probed generation."""

from __future__ import annotations

import contextlib
import os

from .. import files, paths
from ..kernel import abi, probe, syscalls
from ..kernel.calls import CALLS
from ..kernel.calls.base import Geometry
from ..kernel.generations import Generation
from ..kernel.syscalls import NewMapping
from .base import Backend, RegionFile, Window


class KernelWindow(Window):
    def __init__(self, address: int, size_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self._attached = True

    def detach(self) -> None:
        if self._attached:
            syscalls.munmap(self.address, self.size_bytes)
            self._attached = False


class KernelRegionFile(RegionFile):
    def __init__(self, name: str, fd: int, generation: Generation) -> None:
        self.name = name
        self.fd = fd
        self._calls = CALLS[generation.id]

    def set_size(self, window_bytes: int, address: int | None = None) -> None:
        self._calls.set_size(self.fd, window_bytes, address)

    def geometry(self) -> Geometry:
        return self._calls.geometry(self.fd)

    def create_mapping(self, new: NewMapping) -> None:
        self._calls.create_mapping(self.fd, new)

    def unmap(self, offset_bytes: int, size_bytes: int) -> None:
        self._calls.unmap(self.fd, offset_bytes, size_bytes)

    def attach(
        self,
        size_bytes: int,
        prot: int = abi.PROT_READ | abi.PROT_WRITE,
        flags: int = abi.MAP_SHARED,
        address: int | None = None,
        offset_bytes: int = 0,
    ) -> Window:
        where = syscalls.mmap(address, size_bytes, prot, flags, self.fd, offset_bytes)
        # A core file reads pages that are not present, at which the kernel warns and is tainted. A kernel
        # that refuses the advice writes it into core files.
        with contextlib.suppress(OSError):
            syscalls.madvise(where, size_bytes, abi.MADV_DONTDUMP)
        return KernelWindow(where, size_bytes)

    def protect(self, offset_bytes: int, size_bytes: int, prot: int) -> None:
        self._calls.protect(self.fd, offset_bytes, size_bytes, prot)

    def advise(self, offset_bytes: int, size_bytes: int, advice: int) -> None:
        self._calls.advise(self.fd, offset_bytes, size_bytes, advice)


class KernelBackend(Backend):
    """msharefs mounted at `root`. Raises Unavailable where the probe finds no known generation."""

    name = "kernel"

    def __init__(self, root: str) -> None:
        syscalls.require()
        self.root = root
        self.alignment_bytes = probe.alignment_bytes(root)
        self.generation = probe.generation(root)

    def open(self, name: str, flags: int, mode: int = 0o600) -> RegionFile:
        directory, base = os.path.split(name)
        with files.beneath(self.root, directory) as above:
            fd = os.open(base, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=above)
        return KernelRegionFile(name, fd, self.generation)

    def unlink(self, name: str) -> None:
        directory, base = os.path.split(name)
        with files.beneath(self.root, directory) as above:
            os.unlink(base, dir_fd=above)

    def names(self) -> list[str]:
        return sorted(
            name
            for name, is_directory in files.walk(self.root, paths.DIRECTORIES_MAXIMUM, "")
            if not is_directory and name != abi.INFO_FILE
        )
