# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests kept apart from the machine they run on: no systemd of its own, and no child that outlives them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable

SYSTEMD = ("/run/systemd", "/etc/systemd/system")
"""Where it is spoken to, and where its units are."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1


def hide(paths: Iterable[str]) -> None:
    """Put an empty tmpfs over each directory, for this process and its children only. Needs root.

    OSError, with the directory, where that does not work: nobody must go on then.
    """
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "no mount namespace of one's own")
    _mount(b"none", "/", None, _MS_REC | _MS_PRIVATE)
    for path in paths:
        if os.path.isdir(path):
            _mount(b"tmpfs", path, b"tmpfs", 0)


def _mount(source: bytes, path: str, kind: bytes | None, flags: int) -> None:
    if _LIBC.mount(source, os.fsencode(path), kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), "cannot be hidden from the tests", path)


def fork() -> int:
    """As os.fork, with a child that `die_with`s this process."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent)
    return pid


def die_with(parent: int) -> None:
    """Have this process, a forked child, killed when its parent ends, as a killed pytest does: it would hold
    the locks and open files that it inherited for ever."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
