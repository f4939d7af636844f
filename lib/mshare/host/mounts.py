# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mounted in this process's mount namespace."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import NamedTuple

from .procfs import lines, read

_PAGE_SIZE = re.compile(r"(?:^|,)pagesize=([0-9]+)([KMG])")
_TEXTS_KEPT = 4
_UNITS_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    path: str
    filesystem: str
    source: str
    options: str
    super_options: str
    device: str = ""
    """MAJOR:MINOR, decimal."""
    inside: str = "/"
    """What of the file system is mounted: the whole of it, or a directory."""


def _unescape(field: str) -> str:
    # mountinfo writes white space, backslash and, in sources, '#' as octal.
    if "\\" not in field:
        return field
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), field)


def huge_page_bytes(mount: Mount) -> int | None:
    """The size of the pages of a hugetlbfs; None where its options do not say."""
    match = _PAGE_SIZE.search(mount.super_options)
    return None if match is None else int(match[1]) * _UNITS_BYTES[match[2]]


def mounts() -> tuple[Mount, ...]:
    """What is mounted in this process's mount namespace, in mount order."""
    return parse_mounts(read("/proc/self/mountinfo"))


@lru_cache(maxsize=_TEXTS_KEPT)
def parse_mounts(mountinfo: str | None) -> tuple[Mount, ...]:
    """The lines of a mountinfo file. Several who look at a host one after the other read the same ones."""
    parsed = []
    for line in lines(mountinfo):
        left, __, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        parsed.append(
            Mount(
                _unescape(fields[4]),
                rest[0],
                _unescape(rest[1]),
                fields[5],
                rest[2],
                fields[2],
                _unescape(fields[3]),
            )
        )
    return tuple(parsed)


def mount_at(path: str) -> Mount | None:
    """The visible mount at a path (the last of a stack), or None."""
    wanted = os.path.normpath(path)
    return next((mount for mount in reversed(mounts()) if mount.path == wanted), None)


def mount_below(mountinfo: str | None, path: str) -> Mount | None:
    """The mount on which a path lies, by the lines of a process's mountinfo; None if there are none."""
    parts = [path[: match.start()] or "/" for match in re.finditer(r"/|\Z", path)]
    parsed = parse_mounts(mountinfo)
    above = (mount for part in reversed(parts) for mount in reversed(parsed) if mount.path == part)
    return next(above, None)


def hidepid() -> str | None:
    """How /proc hides the processes of others: None when it does not."""
    mount = mount_at("/proc")
    for option in (mount.super_options if mount else "").split(","):
        name, __, value = option.partition("=")
        if name == "hidepid" and value not in ("0", "off"):
            return value
    return None
