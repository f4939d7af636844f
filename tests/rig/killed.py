# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 just before each call by which an action changes files, one after the other.

Without strace, in a forked child: quick, and at the same places each time. `make prove` kills real commands.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator

CALLS = (
    *("write", "pwrite", "ftruncate", "posix_fallocate", "fsync", "fchmod", "fchown"),
    *("rename", "unlink", "rmdir", "mkdir", "mkfifo", "symlink"),
)
"""Of the module os. What open(2) makes is there before the next of them."""


def at_each_call(action: Callable[[], object], step: int = 1) -> Iterator[str]:
    """Run an action that is killed at its first call, then one that is killed `step` calls later, and so on;
    until one is not killed any more. Yields after each which call it was; what it left has to be made good
    then.
    """
    for number in itertools.count(1, step):
        call = _killed(action, number)
        if call is None:
            return
        yield f"{number}: {call}"


def _killed(action: Callable[[], object], number: int) -> str | None:
    """The call at which it was killed; None where it came to its end before that."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _arm(number, writer)
            action()
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as pipe:
        call = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL:
        return call
    assert status == 0, "the action itself failed"
    return None


_armed: Callable[[str], None] | None = None


@contextlib.contextmanager
def at_once(name: str) -> Iterator[None]:
    """What a double of a kernel does is one call to who is killed: before it, and not in its midst."""
    global _armed
    armed, _armed = _armed, None
    if armed is not None:
        armed(name)
    try:
        yield
    finally:
        _armed = armed


def _arm(number: int, writer: int) -> None:
    """Have this process killed at its call of that number."""
    global _armed
    left = itertools.count(number, -1)
    write = os.write

    def count(name: str) -> None:
        if next(left) == 1:
            write(writer, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            if _armed is not None:
                _armed(name)
            return call(*arguments, **options)

        return run

    _armed = count
    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))
