# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cgroup (v2) for a detached launcher and all that comes of it.

A program can leave its session and empty its environment, but not its cgroup. Where there is no cgroup v2
that this user may write to, as in most containers, what is left of a launcher is found by its session.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

from .. import files
from ..errors import MshareError
from ..host import mounts, procfs
from . import tree

_PREFIX = "mshare-"
_LOOKS = 500
_POLL_SECONDS = 0.02
_REMOVE_LOOKS = 50


def make(name: str) -> str | None:
    """A new cgroup below that of this process, by its path; None where that cannot be."""
    for top in _tops():
        own = next((group.path for group in _own() if group.hierarchy == "0"), "/")
        path = os.path.normpath(f"{top}/{own}/{_PREFIX}{name}-{secrets.token_hex(4)}")
        with contextlib.suppress(MshareError, OSError):
            files.make_directory(path)
            # Before Linux 5.14 it cannot be ended as a whole, and a program can fork faster than it is found.
            if os.access(os.path.join(path, "cgroup.kill"), os.W_OK):
                return path
            files.remove_empty(path)
    return None


def _own() -> tuple[procfs.Cgroup, ...]:
    return procfs.cgroups(procfs.read("/proc/self/cgroup"))


def _tops() -> list[str]:
    return [mount.path for mount in mounts.mounts() if mount.filesystem == "cgroup2"]


def enter(path: str) -> None:
    """Put this process into a cgroup; OSError as the kernel says."""
    _write(path, "cgroup.procs", "0")


def _write(path: str, file: str, text: str) -> None:
    fd = files.open_file(os.path.join(path, file), os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def pids(path: str) -> list[int]:
    """The processes in a cgroup of ours; none in one that is not, or is gone."""
    ours = os.path.basename(path).startswith(_PREFIX) and any(path.startswith(f"{top}/") for top in _tops())
    text = procfs.read(os.path.join(path, "cgroup.procs")) if ours else None
    # Those of another pid namespace have the number 0.
    return [int(line) for line in procfs.lines(text) if line.isdigit() and line != "0"]


def end(path: str, seconds: float) -> None:
    """End all in a cgroup of ours, and remove it; MshareError for what survives SIGKILL.

    A process that ends the cgroup that it is in itself, as a client's program can, lives on.
    """
    members = pids(path)
    here = os.getpid() in members
    tree.end(tree.by_pid([pid for pid in members if pid != os.getpid()]), seconds)
    if here:
        return
    if pids(path):
        with contextlib.suppress(FileNotFoundError):
            _write(path, "cgroup.kill", "1")
    for __ in range(_LOOKS):
        if not pids(path):
            break
        time.sleep(_POLL_SECONDS)
    if os.path.basename(path).startswith(_PREFIX):
        _remove(path)


def _remove(path: str) -> None:
    # A process that is ending is in no list any more, and keeps its cgroup for a moment.
    for __ in range(_REMOVE_LOOKS):
        files.remove_empty(path)
        if not os.path.isdir(path):
            break
        time.sleep(_POLL_SECONDS)
