# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detects programs for which the loader would ignore the preload."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from typing import BinaryIO

from ..errors import InvalidRequest, MshareError

_INTERPRETER_SEGMENT = 3  # PT_INTERP
_SCRIPT_DEPTH = 4
_IDENT_BYTES = 20  # magic, class, data, ..., type, machine


def program(name: str) -> str:
    """The path of a command that the library works for.

    Raises MshareError if it does not exist, InvalidRequest if the loader ignores LD_PRELOAD for it.
    """
    path = shutil.which(name)
    if path is None:
        raise MshareError(
            f"command {name} cannot be run: there is no such program, or it is not executable; check its name"
            " and PATH"
        )
    _check_loader(path, path, _SCRIPT_DEPTH)
    return path


def _check_loader(name: str, path: str, depth: int) -> None:
    _check_privileges(name, path)
    try:
        with open(path, "rb") as file:
            head = file.read(256)
            if head.startswith(b"#!") and depth:
                words = head[2:].split(b"\n", 1)[0].split()
                if words:
                    _check_loader(name, os.fsdecode(words[0]), depth - 1)
            elif head.startswith(b"\x7fELF"):
                _check_elf(name, path, head, _segment_types(file, head))
    except OSError:
        # A user who may run a program may not be allowed to read it.
        return


def _check_privileges(name: str, path: str) -> None:
    """Refuse programs that the kernel starts in secure mode, in which the loader ignores LD_PRELOAD."""
    status = os.stat(path)
    reason = None
    if status.st_mode & 0o4000 and status.st_uid != os.getuid():
        reason = "setuid"
    elif status.st_mode & 0o2010 == 0o2010 and status.st_gid != os.getgid():
        reason = "setgid"
    elif os.getuid() != 0 and _has_capabilities(path):
        reason = "given file capabilities"
    if reason is not None:
        raise InvalidRequest(
            f"{name} is {reason}, so the loader ignores LD_PRELOAD and its memory stays as it is; run the"
            " program that it starts, as that program's user"
        )


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _segment_types(file: BinaryIO, head: bytes) -> list[int]:
    """The types of an ELF file's segments; empty for a class that is not 64 bits."""
    if head[4] != 2:
        return []
    offset_bytes, entry_bytes, count = struct.unpack_from("<32xQ14xHH", head)
    file.seek(offset_bytes)
    table = file.read(entry_bytes * count)
    return [struct.unpack_from("<I", table, index * entry_bytes)[0] for index in range(count)]


def _check_elf(name: str, path: str, head: bytes, segments: list[int]) -> None:
    with open(sys.executable, "rb") as file:
        own = file.read(_IDENT_BYTES)
    if (head[4], head[18:20]) != (own[4], own[18:20]):
        raise InvalidRequest(
            f"{name} is for another architecture than the preload ({path}), so its memory stays as it is; run"
            " a program for this host's architecture"
        )
    if _INTERPRETER_SEGMENT not in segments:
        raise InvalidRequest(
            f"{name} is linked statically ({path}), so nothing can be preloaded into it; use a dynamically"
            f" linked build"
        )
