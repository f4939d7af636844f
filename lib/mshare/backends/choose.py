# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing a backend, and saying why."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from .. import files, paths
from ..errors import InvalidRequest, Unavailable
from ..host import mounts, procfs
from ..kernel import abi
from . import root as roots

BACKENDS = ("auto", "kernel", "simulated")


class Choice(NamedTuple):
    """Which backend, at which root, and the sentence that says why."""

    backend: str
    root: str
    reason: str


def kernel_has_msharefs() -> bool:
    """Whether this kernel knows the file system at all (step 1 of the probe)."""
    return abi.FILESYSTEM in procfs.filesystems()


def kernel_root() -> str | None:
    """Where msharefs is mounted: in its usual place, else the first mount."""
    roots = [mount.path for mount in mounts.mounts() if mount.filesystem == abi.FILESYSTEM]
    return paths.KERNEL_ROOT if paths.KERNEL_ROOT in roots else (roots[0] if roots else None)


def choose(backend: str = "auto") -> Choice:
    """Which backend this host can have, mounted or not yet.

    "auto" takes the kernel's where the kernel has it and else the simulated one; requesting "kernel"
    on a host without it raises Unavailable, never a fallback.
    """
    if backend not in BACKENDS:
        raise InvalidRequest(f"backend {backend!r} is unknown; write one of " + ", ".join(BACKENDS))
    if backend == "simulated":
        return Choice("simulated", paths.simulated_root(), "the simulated backend was requested")
    if kernel_has_msharefs():
        root = kernel_root() or paths.KERNEL_ROOT
        return Choice("kernel", root, "this kernel has msharefs in /proc/filesystems")
    missing = f"kernel {os.uname().release} has no msharefs in /proc/filesystems"
    if backend == "kernel":
        raise Unavailable(
            f"backend kernel was requested, but {missing}; boot a kernel with the mshare series, or use"
            " backend simulated"
        )
    return Choice("simulated", paths.simulated_root(), f"{missing}, so the simulated backend is used")


def require_entry(root: str) -> None:
    """Unavailable for a user who may not look into a root: nothing is known about it then, not even whether
    there is something."""
    try:
        closed = stat.S_ISDIR(os.stat(root).st_mode) and not os.access(root, os.X_OK)
    except PermissionError:
        closed = True
    except OSError:
        return
    if closed:
        raise Unavailable(
            f"uid {os.geteuid()} may not look into {root}, so what is there is not known; run as root"
            " (become: true), or as a member of its group"
        )


def _called(root: str) -> Choice:
    reason = f"{root} holds the names of regions, which this kernel makes by the calls of generation 2026-05"
    return Choice("kernel", root, reason)


def locate(backend: str = "auto", root: str | None = None) -> Choice:
    """The backend of a root that is mounted already; Unavailable, with the next step, if none is."""
    if root is not None:
        require_entry(root)
        mount = mounts.mount_at(root)
        if mount is not None and mount.filesystem == abi.FILESYSTEM and backend != "simulated":
            return Choice("kernel", root, f"msharefs is mounted at {root}")
        if roots.called(root) and backend != "simulated":
            return _called(root)
        if roots.simulated(root) and backend != "kernel":
            return Choice("simulated", root, f"{root} holds a simulated msharefs")
        wanted = "msharefs" if backend == "auto" else f"msharefs of backend {backend}"
        raise Unavailable(f"{root} holds no {wanted}; mount it with `mshare mount --root {root}`")
    own = paths.simulated_root()
    if backend != "simulated" and not kernel_has_msharefs() and roots.called(own):
        choice, mounted = _called(own), True
        require_entry(own)
    else:
        choice = choose(backend)
        require_entry(choice.root)
        mounted = kernel_root() is not None if choice.backend == "kernel" else roots.simulated(choice.root)
    if not mounted:
        raise Unavailable(
            f"no msharefs is mounted ({choice.reason}; tried {choice.root}); run `mshare mount"
            f" --backend {choice.backend}` or the role dbmem.mshare.msharefs"
        )
    if choice.root == own and not paths.is_root():
        # /dev/shm/msharefs-UID: anybody can make that first, and wait for this user's memory.
        files.require_own_directory(choice.root)
    return choice
