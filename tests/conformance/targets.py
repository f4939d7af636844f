# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backends that the cases run against: the simulator as each generation, and the kernel's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from mshare.backends.choose import kernel_has_msharefs
from mshare.backends.simulated.layout import Layout
from mshare.kernel import probe
from mshare.kernel.generations import PLAYED, Features


@dataclass(frozen=True)
class Target:
    id: str
    backend: str

    def present(self) -> bool:
        return self.backend == "simulated" or kernel_has_msharefs()

    @contextlib.contextmanager
    def mounted(self) -> Iterator[str]:
        """The root of an empty msharefs of this kind."""
        maker = _simulated(self.id) if self.backend == "simulated" else _kernel()
        with maker as root:
            yield root

    def features(self) -> Features:
        if self.backend == "simulated":
            return PLAYED[self.id].features
        with self.mounted() as root:
            return probe.generation(root).features


@contextlib.contextmanager
def _simulated(generation: str) -> Iterator[str]:
    """A directory on the tmpfs that everybody has."""
    root = tempfile.mkdtemp(prefix="msharefs-test-", dir="/dev/shm")
    try:
        Layout.create(root, generation).set_access(0o1777)
        yield root
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def _kernel() -> Iterator[str]:
    """A mount of its own: each is a new, empty instance."""
    root = tempfile.mkdtemp(prefix="msharefs-test-")
    try:
        subprocess.run(["mount", "-t", "msharefs", "msharefs", root], check=True)
        try:
            os.chmod(root, 0o1777)
            yield root
        finally:
            # Regions die with the actors that made them, which takes the kernel a moment.
            subprocess.run(["umount", "--lazy", root], check=True)
    finally:
        os.rmdir(root)


KERNEL = Target("kernel", "kernel")
TARGETS = [*(Target(generation, "simulated") for generation in PLAYED), KERNEL]
