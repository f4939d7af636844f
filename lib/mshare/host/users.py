# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a mounted file system: by open files, mappings, working and root directories."""

from __future__ import annotations

import contextlib
import os

from . import procfs


def of_filesystem(path: str) -> list[int]:
    """The processes that keep the file system at a path from being unmounted, as far as this user may see
    them, in order of pid."""
    device = os.stat(path).st_dev
    return [pid for pid in procfs.pids() if _uses(pid, device)]


def _uses(pid: int, device: int) -> bool:
    links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    return any(_device(link) == device for link in links) or _maps(pid, device)


def _device(link: str) -> int | None:
    try:
        return os.stat(link).st_dev
    except OSError:
        return None


def _maps(pid: int, device: int) -> bool:
    name = f" {os.major(device):02x}:{os.minor(device):02x} "
    return name in procfs.maps(pid)
