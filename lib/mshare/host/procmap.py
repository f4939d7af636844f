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
from typing import NamedTuple

WRITABLE = 0x02
_SHARED, _COVERING_OR_NEXT, _FILE_BACKED = 0x08, 0x10, 0x20
_QUERY = 0xC0686611
_STRUCT_BYTES = 104
_NAME_BYTES = 4096
# struct procmap_query as words of 64 bits; device and lengths are two of 32 bits each.
_FLAGS, _ADDRESS, _START, _END, _ACCESS, _PAGE, _OFFSET, _INODE, _DEVICE, _LENGTHS, _NAME = range(1, 12)
_ANSWER = slice(_START, _DEVICE + 1)
_WANTED = _SHARED | _COVERING_OR_NEXT | _FILE_BACKED
_LENGTH_MASK = 0xFFFFFFFF
Fields = tuple[int, ...]
"""start, end, access, page size, offset, inode, device as the kernel packs it."""
_NOTHING = (0,) * 7


def shared(fd: int) -> list[Fields]:
    """Every shared mapping behind an open maps file, in order of address.

    Raises OSError with ENOTTY or EINVAL on a kernel that cannot be asked.
    """
    mappings = []
    ask, asked = fcntl.ioctl, _words(0)
    try:
        while True:
            # The kernel writes the flags and sizes back as they were given.
            ask(fd, _QUERY, asked, True)
            mappings.append(tuple(asked[_ANSWER]))
            asked[_ADDRESS] = asked[_END]
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    return mappings


class Question(NamedTuple):
    """Whether a mapping is there: what the kernel is asked, and what it answers if it is."""

    asked: bytes
    answer: bytes


def question(mapping: Fields) -> Question:
    """Whether this very mapping is there."""
    address = mapping[0]
    return Question(_words(address).tobytes(), _words(address, mapping).tobytes())


def has(fd: int, questions: Iterable[Question]) -> bool:
    """Whether mappings are among the shared ones behind an open maps file, whatever others there are.

    Raises OSError as `shared`.
    """
    # Where a survey spends most of its time: not a call more than the kernel's.
    ask = fcntl.ioctl
    try:
        for asked, answer in questions:
            if ask(fd, _QUERY, asked) != answer:
                return False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def name(fd: int, address: int) -> bytes:
    """The path of the mapping at an address, as maps writes it; empty if it is gone meanwhile."""
    view = array.array("B", bytes(_NAME_BYTES))
    asked = _words(address)
    asked[_LENGTHS], asked[_NAME] = _NAME_BYTES, view.buffer_info()[0]
    if not _ask(fd, asked):
        return b""
    length = asked[_LENGTHS] & _LENGTH_MASK
    return view.tobytes()[: max(0, length - 1)]


def device(packed: int) -> bytes:
    """A device number as maps writes it."""
    return b"%02x:%02x" % (packed & _LENGTH_MASK, packed >> 32)


def _words(address: int, answer: Fields = _NOTHING) -> array.array[int]:
    """A question without a name, before and after the kernel has answered it."""
    return array.array("Q", (_STRUCT_BYTES, _WANTED, address, *answer, 0, 0, 0))


def _ask(fd: int, asked: array.array[int]) -> bool:
    try:
        fcntl.ioctl(fd, _QUERY, asked, True)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
