# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that keeps windows true: rings, owners that end, windows that go, and forks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from mshare.backends.simulated.watch import Watcher
from rig.apart import die_with
from rig.faults import open_files
from rig.patience import eventually


class Window:
    """A window that counts what the watcher asks of it. Its bell is an eventfd."""

    def __init__(self, owner: int | None = None) -> None:
        self.owner = owner
        self.bell_fd = os.eventfd(0, os.EFD_NONBLOCK) if hasattr(os, "eventfd") else os.pipe()[0]
        self.refreshed = self.ends = self.forks = 0
        self.living = True
        self.error: OSError | None = None

    def ring(self) -> None:
        os.eventfd_write(self.bell_fd, 1)

    def bell(self) -> int:
        return os.dup(self.bell_fd)

    def owner_pidfd(self) -> int | None:
        return None if self.owner is None else os.pidfd_open(self.owner)

    def refresh(self) -> bool:
        self.refreshed += 1
        if self.error is not None:
            raise self.error
        return self.living

    def ended(self) -> None:
        self.ends += 1

    def after_fork(self) -> None:
        self.forks += 1


@pytest.fixture
def owner() -> Iterator[int]:
    """The pid of a child that stays."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent)
        while True:
            signal.pause()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="os.eventfd is of Python 3.10")


def test_a_ring_refreshes_the_window_that_it_is_of(owner: int) -> None:
    watcher, window, other = Watcher(), Window(owner), Window(owner)
    watcher.add(window)
    watcher.add(other)
    for number in (1, 2):
        window.ring()
        eventually(lambda number=number: window.refreshed == number)
    assert other.refreshed == 0


def test_a_window_without_a_pidfd_of_its_owner_is_looked_at_again_and_again() -> None:
    watcher, window = Watcher(), Window()
    watcher.add(window)
    eventually(lambda: window.refreshed > 2)
    watcher.remove(window)


def test_a_region_that_ended_is_cleared_up_once_and_watched_no_more(owner: int) -> None:
    watcher, window = Watcher(), Window(owner)
    watcher.add(window)
    window.living = False
    window.ring()
    eventually(lambda: window.ends == 1)
    window.ring()
    watcher.refresh()
    assert (window.refreshed, window.ends) == (1, 1)


def test_the_end_of_the_owner_refreshes() -> None:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent)
        while True:
            signal.pause()
    watcher, window = Watcher(), Window(pid)
    watcher.add(window)
    window.living = False
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: window.ends == 1)
    os.waitpid(pid, 0)


def test_an_object_that_may_not_be_opened_does_not_end_the_watch(owner: int) -> None:
    watcher, window = Watcher(), Window(owner)
    watcher.add(window)
    window.error = PermissionError(13, "Permission denied")
    window.ring()
    eventually(lambda: window.refreshed == 1)
    window.error = None
    window.ring()
    eventually(lambda: window.refreshed == 2)
    assert window.ends == 0


def test_what_this_process_changed_is_seen_at_once(owner: int) -> None:
    watcher, window = Watcher(), Window(owner)
    watcher.add(window)
    watcher.refresh()
    assert window.refreshed == 1


def test_a_window_that_is_not_watched_can_be_removed(owner: int) -> None:
    watcher, window = Watcher(), Window(owner)
    watcher.remove(window)
    watcher.add(window)
    before = len(open_files())
    watcher.remove(window)
    watcher.remove(window)
    assert len(open_files()) == before - 2, "its bell and its owner's pidfd are closed"


def test_a_forked_child_watches_with_a_thread_of_its_own(owner: int) -> None:
    watcher, window = Watcher(), Window(owner)
    watcher.add(window)
    read_fd, write_fd = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with(parent)
            watcher.after_fork()
            first = (window.forks, window.refreshed)
            window.ring()
            eventually(lambda: window.refreshed == first[1] + 1)
            names = [thread.name for thread in threading.enumerate()]
            os.write(write_fd, f"{first} {names.count('mshare-watch')}".encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, encoding="ascii") as pipe:
        assert pipe.read() == "(1, 1) 1"
    os.waitpid(pid, 0)
    # The bell is one for both: the parent hears the child's ring.
    eventually(lambda: window.refreshed == 1)
