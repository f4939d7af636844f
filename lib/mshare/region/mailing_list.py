# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls that the mailing list wished for, as library functions over whichever generation there is.

`mshare()` and `mshare_unlink()` were system calls in the 2022-01 and 2022-04 series, and `mcreate()`
was proposed on the list as "just a library call ... a thin wrapper around open() that happens to know
where msharefs is mounted". None of them makes a system call of its own here.
"""

from __future__ import annotations

import errno
import os

from ..backends.base import RegionFile
from ..backends.connect import connect
from . import region, rules
from .region import Attachment, Region

# A window of mshare() lives as long as the process, like that of the system call: Python must not
# collect what keeps it.
_attached: list[Attachment] = []


def mcreate(name: str, flags: int = os.O_RDWR | os.O_CREAT | os.O_EXCL, mode: int = 0o600) -> RegionFile:
    """open(2) of a region by name, wherever msharefs is mounted; OSError as open gives it."""
    return connect().open(rules.region_name(name), flags, mode)


def mshare(name: str, addr: int, length: int, oflag: int = os.O_RDWR, mode: int = 0o600) -> int:
    """Attach the region `name` at `addr` and return the address; with O_CREAT, create it first.

    `addr` 0 means any. A region that is created gets `length` bytes of anonymous memory; of one that
    exists, `length` must be the mapped size or the window's (EINVAL otherwise). OSError with the
    kernel's errno, as the call had it.
    """
    read_only = oflag & os.O_ACCMODE == os.O_RDONLY
    exists = name in region.list_regions()
    if oflag & os.O_CREAT and (oflag & os.O_EXCL or not exists):
        opened = Region.create(name, length, address=addr or None, mode=mode, overcommit=True)
    else:
        opened = Region.open(name, read_only=read_only)
        _check_length(opened, length)
    with opened:
        attachment = opened.attach(addr or None, read_only=read_only)
    _attached.append(attachment)
    return attachment.address


def _check_length(opened: Region, length: int) -> None:
    found = opened.stat()
    # A kernel does not list what is mapped inside: there, any length within the window may be it.
    unknown = found.mapped_bytes is None and 0 < length < found.window_bytes
    if length not in (found.window_bytes, found.mapped_bytes) and not unknown:
        opened.close()
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), found.path)


def mshare_unlink(name: str) -> None:
    """Remove the name of a region; it goes when nobody has it mapped any more."""
    region.unlink(name)
