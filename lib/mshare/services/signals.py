# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for signals, none of which is missed: neither just before a wait nor around a fork.

pause(2) sleeps through a signal that came in the instant before it; a byte in a pipe stays there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from typing import NoReturn


def inbox() -> int:
    """From now on each signal that has a handler leaves its number, a byte, in a pipe: its end to read.

    For the main thread, once per process; a forked child has to `leave` its parent's. Source: signal(7)
    and Python's signal.set_wakeup_fd.
    """
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def wait(inbox_fd: int) -> bytes:
    """Sleep until there are signals; their numbers. Handlers that raise do so from here."""
    select.select([inbox_fd], [], [])
    return os.read(inbox_fd, 4096)


def wait_for_ever() -> NoReturn:
    """Sleep until a handler raises, which SIGINT's does by default; others are heard and slept on."""
    fd = inbox()
    while True:
        wait(fd)


@contextlib.contextmanager
def held(numbers: Iterable[int]) -> Iterator[None]:
    """Have signals wait for the end of the block; a child forked in it has to `leave`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave(numbers: Iterable[int]) -> None:
    """In a forked child: the parent's inbox is none of its own, and signals do what they do by default."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
