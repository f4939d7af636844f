# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a backend for work; apart from choosing, because only this needs cffi."""

from __future__ import annotations

from . import root as roots
from .base import Backend
from .called import CalledBackend
from .choose import locate
from .kernel import KernelBackend
from .simulated.backend import SimulatedBackend

_BACKENDS = {"kernel": KernelBackend, "simulated": SimulatedBackend}


def connect(backend: str = "auto", root: str | None = None) -> Backend:
    """The backend at a mounted root; Unavailable, with the next step, where there is none."""
    choice = locate(backend, root)
    if choice.backend == "kernel" and roots.called(choice.root):
        return CalledBackend(choice.root)
    return _BACKENDS[choice.backend](choice.root)
