# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detects the generation of a mounted msharefs with a temporary file, never by kernel version; and whether
the kernel has the calls that were described, which need no msharefs.

Each call is harmless on a file without a size. `0x40107801` means SET_SIZE in the old generations and
UNMAP in the new ones, so it is not used here. Needs only the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import uuid
from typing import Any, Callable

from .. import files
from ..errors import Unavailable
from . import abi
from .generations import GENERATIONS, Generation

_OK = 0
_MAP_WITHOUT_OBJECT = abi.MAP_SHARED | abi.MAP_FIXED
_UNUSED_FD = 0x7FFFFFFF


def _errno_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return _OK


def _read(fd: int) -> int:
    return _errno_of(lambda: os.read(fd, abi.INFO_STRUCT_BYTES))


def _ioctl(fd: int, request: int) -> int:
    return _errno_of(lambda: fcntl.ioctl(fd, request, bytearray(abi.INFO_STRUCT_BYTES)))


def _create_without_object(fd: int) -> int:
    # Neither MAP_ANONYMOUS nor a file: the generation with files looks up the descriptor, the one
    # without files refuses the flags.
    fields = struct.pack("=QQQIIIxxxx", 0, abi.PAGE_BYTES, 0, abi.PROT_READ, _MAP_WITHOUT_OBJECT, _UNUSED_FD)
    return _errno_of(lambda: fcntl.ioctl(fd, abi.CREATE_MAPPING_BY_OFFSET, bytearray(fields)))


_NOT_POSTED = "not posted yet: the calls of generation 2026-05 have no numbers, so no kernel has them"

# Errno of (read(16), ioctl GET_SIZE, ioctl UNMAP_BY_ADDRESS) -> the generation.
_ANSWERS: dict[tuple[int, ...], str] = {
    (_OK, errno.ENOTTY, errno.ENOTTY): "2022-06",
    (errno.EINVAL, _OK, errno.ENOTTY): "2024-09",
    (errno.EINVAL, _OK, errno.EINVAL): "2025-01",
    (errno.EINVAL, errno.ENOTTY, errno.ENOTTY): "2025-04",
    (errno.EINVAL, errno.EINVAL, errno.EINVAL): "2025-08",
}
# Errno of CREATE_MAPPING once the temporary file has a size, in generations that use ftruncate.
_OBJECT_ANSWERS = {errno.EBADF: "2025-08", errno.EINVAL: "2025-04"}


def alignment_bytes(root: str) -> int:
    """The alignment in mshare_info: decimal text, too large for a C int.

    Raises Unavailable if the file is missing: the system-call series of 2022 had none.
    """
    path = os.path.join(root, abi.INFO_FILE)
    try:
        text = files.read_text(path)
    except files.NotTrusted as error:
        raise Unavailable(
            f"{path} is {error.reason} where a file with the alignment belongs; is this msharefs?"
        ) from None
    if text is None:
        raise Unavailable(
            f"{path} is missing: this is an msharefs of the 2022-01 or 2022-04 series, whose system calls"
            f" are not safe on today's kernels; boot a kernel with a later series"
        )
    try:
        return int(text)
    except ValueError:
        raise Unavailable(f"{path} contains no alignment ({text[:20]!a}); is this msharefs?") from None


def generation(root: str) -> Generation:
    """The generation, detected with a temporary file that is unlinked first.

    Raises Unavailable with the results if they match no known generation.
    """
    alignment = alignment_bytes(root)
    path = os.path.join(root, f"probe-{uuid.uuid4().hex}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
        answers = [_read(fd), _ioctl(fd, abi.GET_SIZE), _ioctl(fd, abi.UNMAP_BY_ADDRESS)]
        identifier = _ANSWERS.get(tuple(answers))
        if identifier in _OBJECT_ANSWERS.values():
            os.ftruncate(fd, alignment)
            answers.append(_create_without_object(fd))
            identifier = _OBJECT_ANSWERS.get(answers[-1])
    finally:
        os.close(fd)
    if identifier is None:
        names = ", ".join(
            errno.errorcode.get(answer, "ok" if answer == _OK else str(answer)) for answer in answers
        )
        raise Unavailable(
            f"msharefs at {root} answered the probe with ({names}), which matches none of "
            + ", ".join(GENERATIONS)
            + "; please report it with the kernel's origin"
        )
    return GENERATIONS[identifier]


def why_no_calls() -> str | None:
    """Why this kernel cannot be asked by the calls of 2026-05, in a sentence; None for one that has them."""
    if any(name not in abi.CALL_NUMBERS for name in abi.NUMBERED_CALLS):
        return _NOT_POSTED
    try:
        # No flag is -1: a kernel with the call refuses it, and makes nothing.
        os.close(call("mshare_create", -1))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return f"kernel {os.uname().release} has no mshare_create"
    return None


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int) -> int:
    """Make a numbered call; Unavailable, and no call is made, without its number. OSError as it answers."""
    if name not in abi.CALL_NUMBERS:
        raise Unavailable(f"{name} cannot be called, {_NOT_POSTED}; use the simulated backend")
    # Here, because every look at a host imports this file, and none makes such a call.
    import ctypes

    SYS_number = ctypes.c_long(abi.CALL_NUMBERS[name])
    done = int(_libc().syscall(SYS_number, *map(ctypes.c_long, arguments)))
    if done == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done
