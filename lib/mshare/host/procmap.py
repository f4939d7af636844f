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


def query(fd: int, address: int) -> Fields | None:
    """The first shared mapping that ends after an address; None after the last."""
    asked = array.array("Q", (_STRUCT_BYTES, _WANTED, address, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    if not _ask(fd, asked):
        return None
    return (asked[_START], asked[_END], asked[_ACCESS], asked[_OFFSET], asked[_INODE], asked[_DEVICE])


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
