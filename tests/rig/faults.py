# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls that fail at one moment, as if the system had answered with an error, and what is left open then."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection

import pytest


def fail_at(
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
    numbers: Collection[int],
    code: int = errno.EIO,
) -> list[int]:
    """Have the calls of a function with these numbers, from 1, fail with an OSError; the others are real.

    Returns the numbers of the calls so far: the test sees that it came as far as that.
    """
    real = getattr(target, name)
    calls: list[int] = []

    def call(*arguments: object, **named: object) -> object:
        calls.append(len(calls) + 1)
        if calls[-1] in numbers:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **named)

    monkeypatch.setattr(target, name, call)
    return calls


# A thread that watches windows of earlier tests looks there whether a thread with a region still lives.
_WATCHERS = re.compile(r"/proc/\d+/task/\d+/stat")


def open_files() -> set[str]:
    """The numbers of the open files of this process, and what they are."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            # The listing's own.
            continue
        if not _WATCHERS.fullmatch(path):
            found.add(f"{number} {path}")
    return found
