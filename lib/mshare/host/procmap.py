# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PROCMAP_QUERY (Linux 6.11): asking /proc/PID/maps for shared mappings only, without text.

A process has a hundred mappings or more and one or two segments; writing and reading them all as text
takes most of a survey's time.
"""

from __future__ import annotations

import array
import errno
import fcntl
from collections.abc import Iterable

WRITABLE = 0x02
_SHARED, _COVERING_OR_NEXT, _FILE_BACKED = 0x08, 0x10, 0x20
_QUERY = 0xC0686611
_STRUCT_BYTES = 104
_NAME_BYTES = 4096
# struct procmap_query as words of 64 bits; device and lengths are two of 32 bits each.
_FLAGS, _ADDRESS, _START, _END, _ACCESS, _PAGE, _OFFSET, _INODE, _DEVICE, _LENGTHS, _NAME = range(1, 12)
_WANTED = _SHARED | _COVERING_OR_NEXT | _FILE_BACKED
_LENGTH_MASK = 0xFFFFFFFF
Fields = tuple[int, int, int, int, int, int]
"""start, end, access, offset, inode, device as the kernel packs it."""
_ASKED = array.array("Q", (_STRUCT_BYTES, _WANTED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))


def shared(fd: int) -> list[Fields]:
    """Every shared mapping behind an open maps file, in order of address.

    Raises OSError with ENOTTY or EINVAL on a kernel that cannot be asked.
    """
    mappings = []
    # Where a survey spends most of its time: not a call more than the kernel's.
    ask, asked = fcntl.ioctl, _ASKED
    asked[_ADDRESS] = 0
    try:
        while True:
            # The kernel writes the flags and sizes back as they were given.
            ask(fd, _QUERY, asked, True)
            end = asked[_END]
            mappings.append(
                (asked[_START], end, asked[_ACCESS], asked[_OFFSET], asked[_INODE], asked[_DEVICE])
            )
            asked[_ADDRESS] = end
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return mappings


def has(fd: int, mappings: Iterable[Fields]) -> bool:
    """Whether these are among the shared mappings behind an open maps file, whatever others there are.

    Raises OSError as `shared`.
    """
    ask, asked = fcntl.ioctl, _ASKED[:]
    try:
        for mapping in mappings:
            asked[_ADDRESS] = mapping[0]
            ask(fd, _QUERY, asked, True)
            if (
                asked[_INODE] != mapping[4]
                or asked[_END] != mapping[1]
                or asked[_START] != mapping[0]
                or asked[_DEVICE] != mapping[5]
                or asked[_OFFSET] != mapping[3]
                or asked[_ACCESS] != mapping[2]
            ):
                return False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def name(fd: int, address: int) -> bytes:
    """The path of the mapping at an address, as maps writes it; empty if it is gone meanwhile."""
    view = array.array("B", bytes(_NAME_BYTES))
    asked = array.array("Q", (_STRUCT_BYTES, _WANTED, address, 0, 0, 0, 0, 0, 0, 0, _NAME_BYTES, 0, 0))
    asked[_NAME] = view.buffer_info()[0]
    if not _ask(fd, asked):
        return b""
    length = asked[_LENGTHS] & _LENGTH_MASK
    return view.tobytes()[: max(0, length - 1)]


def device(packed: int) -> bytes:
    """A device number as maps writes it."""
    return b"%02x:%02x" % (packed & _LENGTH_MASK, packed >> 32)


def _ask(fd: int, asked: array.array[int]) -> bool:
    try:
        fcntl.ioctl(fd, _QUERY, asked, True)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
