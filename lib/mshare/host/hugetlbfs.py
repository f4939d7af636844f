# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in huge pages (hugetlbfs), as DPDK and QEMU have them.

Each keeps its pages until it is removed, even if no process has it open any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from .limits import Host
from .mounts import huge_page_bytes, parse_mounts

_BLOCK_BYTES = 512
"""Of st_blocks."""
_MOST_FILES = 10000


@dataclass(frozen=True)
class HugeFile:
    """A file that has pages of a pool."""

    path: str
    pages: int


def huge_files(host: Host, page_bytes: int) -> list[HugeFile]:
    """The files with pages of a size in every hugetlbfs that is mounted here; those with most pages first."""
    mounts = {
        mount.device: mount
        for mount in parse_mounts(host.read("/proc/self/mountinfo"))
        if mount.filesystem == "hugetlbfs" and huge_page_bytes(mount) == page_bytes
    }
    found = [
        HugeFile(path, pages)
        for mount in mounts.values()
        for path in islice(_paths(host, mount.path), _MOST_FILES)
        for pages in [_pages(host.path(path), page_bytes)]
        if pages
    ]
    return sorted(found, key=lambda file: (-file.pages, file.path))


def _paths(host: Host, top: str) -> Iterator[str]:
    above = host.root.rstrip("/")
    for folder, __, names in os.walk(host.path(top)):
        yield from (os.path.join(folder, name)[len(above) :] for name in names)


def _pages(path: str, page_bytes: int) -> int:
    try:
        return os.lstat(path).st_blocks * _BLOCK_BYTES // page_bytes
    except OSError:
        # Removed meanwhile, and its pages with it.
        return 0
