# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""madvise(2) on the memory of another process: process_madvise(2), Linux 5.10.

Through ctypes, not cffi: who makes huge pages of a running server's memory needs nothing installed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from .abi import HUGE_PAGE_BYTES

MADV_COLLAPSE = 25
"""Linux 6.1: have the kernel put a range into huge pages now."""
# The same on every architecture; glibc has had a function for it since 2.36 only.
SYS_process_madvise = 440


class _Range(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


_LIBC = ctypes.CDLL(None, use_errno=True)


def collapse(pidfd: int, address: int, size_bytes: int) -> None:
    """Put a range of a process's memory, aligned to huge pages, into huge pages.

    OSError with the kernel's errno: ENOMEM where no huge page is to be had, EAGAIN and EBUSY where
    pages are in use just now, EINVAL where the range cannot be in huge pages, ESRCH for a process that
    is gone, EPERM without CAP_SYS_NICE and the right to trace.
    """
    part = _Range(address, size_bytes)
    rest = (ctypes.byref(part), ctypes.c_size_t(1), ctypes.c_int(MADV_COLLAPSE), ctypes.c_uint(0))
    done = _LIBC.syscall(SYS_process_madvise, ctypes.c_int(pidfd), *rest)
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def can_collapse() -> bool:
    """Whether this kernel has MADV_COLLAPSE: it is tried on memory of this process."""
    with mmap.mmap(-1, 2 * HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        first = ctypes.c_char.from_buffer(memory)
        try:
            begins = ctypes.addressof(first)
            aligned = -(-begins // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
            memory[aligned - begins] = 1
            pidfd = os.pidfd_open(os.getpid())
            try:
                collapse(pidfd, aligned, HUGE_PAGE_BYTES)
            except OSError as error:
                # Anything else is the answer of a kernel that knows it and has no huge page just now.
                return error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM)
            finally:
                os.close(pidfd)
            return True
        finally:
            del first
