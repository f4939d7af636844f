# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls proposed on the mailing list, as library functions for every generation.

`mshare()` and `mshare_unlink()` were system calls in the 2022-01 and 2022-04 series, and `mcreate()`
was proposed on the list as "just a library call ... a thin wrapper around open() that happens to know
where msharefs is mounted". Here none of them is a system call.
"""

from __future__ import annotations

import errno
import os

from ..backends.base import RegionFile
from ..backends.connect import connect
from . import region, rules
from .region import Attachment, Region

# A window of mshare() lives as long as the process, like that of the system call, so Python must not
# collect it.
_attached: list[Attachment] = []
# Nor a region that it created: without a file, it ends when its creator closes it.
_created: list[Region] = []


def mcreate(name: str, flags: int = os.O_RDWR | os.O_CREAT | os.O_EXCL, mode: int = 0o600) -> RegionFile:
    """open(2) of a region by name, wherever msharefs is mounted; raises OSError as open does."""
    return connect().open(rules.region_name(name), flags, mode)


def mshare(name: str, addr: int, length: int, oflag: int = os.O_RDWR, mode: int = 0o600) -> int:
    """Attach the region `name` at `addr` and return the address; with O_CREAT, create it first.

    `addr` 0 means any. A new region gets `length` bytes of anonymous memory; for an existing one,
    `length` must be its mapped size or its window (otherwise EINVAL). Raises OSError with the errno of
    the system call.
    """
    read_only = oflag & os.O_ACCMODE == os.O_RDONLY
    exists = name in region.list_regions()
    creates = oflag & os.O_CREAT and (oflag & os.O_EXCL or not exists)
    if creates:
        opened = Region.create(name, length, address=addr or None, mode=mode, overcommit=True)
    else:
        opened = Region.open(name, read_only=read_only)
        _check_length(opened, length)
    try:
        attachment = opened.attach(addr or None, read_only=read_only)
    except BaseException:
        opened.close()
        raise
    if creates:
        _created.append(opened)
    else:
        opened.close()
    _attached.append(attachment)
    return attachment.address


def _check_length(opened: Region, length: int) -> None:
    status = opened.stat()
    # A kernel does not list what is mapped inside, so any length within the window may be right.
    unknown = status.mapped_bytes is None and 0 < length < status.window_bytes
    if length not in (status.window_bytes, status.mapped_bytes) and not unknown:
        opened.close()
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), status.path)


def mshare_unlink(name: str) -> None:
    """Remove the name of a region; it ends when no process has it mapped any more."""
    region.unlink(name)
