# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps simulated windows true while other processes change the region or its owner dies.

A kernel changes the shared tables once and every process sees it. Here one thread per process waits
for change announcements of the regions and for the ends of the owners, and remaps what changed.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Protocol

# An owner that is not its process's main thread has no pidfd before Linux 6.9: it is polled.
_POLL_SECONDS = 0.05


class Watched(Protocol):
    def bell(self) -> int:
        """A new descriptor of the FIFO that announces changes: each announcement makes it readable again."""

    def owner_pidfd(self) -> int | None:
        """A new pidfd of the owner, or None where only looking helps."""

    def refresh(self) -> bool:
        """Map what changed; False once there is nothing more to wait for."""

    def ended(self) -> None:
        """Clear up after the region's end; may take its time."""

    def after_fork(self) -> None:
        """Make the window usable in a forked child."""


class Watcher:
    """One thread that refreshes the windows of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Watched, list[int]] = {}
        """Of each window its bell and, if it can be had, its owner's pidfd."""
        self._windows: dict[int, Watched] = {}
        """By descriptor."""
        self._poll: select.epoll | None = None
        self._wake: tuple[int, int] = (-1, -1)

    def add(self, window: Watched) -> None:
        """Watch a window from now on."""
        with self._lock:
            if self._poll is None:
                self._start()
            self._watch(window)
            # The thread has to check again whether there is a change.
            os.write(self._wake[1], b"+")

    def remove(self, window: Watched) -> None:
        """Stop watching; unknown windows are fine."""
        with self._lock:
            for fd in self._files.pop(window, []):
                # Out of epoll first: a forked child may keep the file behind the descriptor open.
                if self._poll is not None:
                    self._poll.unregister(fd)
                del self._windows[fd]
                os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: the windows are there, the thread is not."""
        windows = list(self._files)
        # The epoll is shared with the parent: what the child did to it would be done to both.
        for fd in [*self._windows, *self._wake]:
            if fd >= 0:
                os.close(fd)
        if self._poll is not None:
            self._poll.close()
        self.__init__()  # type: ignore[misc]
        for window in windows:
            window.after_fork()
            self.add(window)
            self._refresh(window)

    def refresh(self) -> None:
        """Refresh every window now: what this process changed, it must see at once."""
        with self._lock:
            windows = list(self._files)
        for window in windows:
            self._refresh(window)

    def _refresh(self, window: Watched) -> None:
        try:
            ended = not window.refresh()
        except OSError:
            # This process may not open an object: its range stays a hole, the others are mapped.
            return
        if ended:
            self.remove(window)
            window.ended()

    def _watch(self, window: Watched) -> None:
        assert self._poll is not None
        bell = window.bell()
        pidfd = window.owner_pidfd()
        # Edge-triggered: everybody is woken by every ring, and nobody takes it from the others.
        self._poll.register(bell, select.EPOLLIN | select.EPOLLET)
        self._files[window] = [bell]
        if pidfd is not None:
            self._poll.register(pidfd, select.EPOLLIN)
            self._files[window].append(pidfd)
        self._windows.update(dict.fromkeys(self._files[window], window))

    def _start(self) -> None:
        self._poll = select.epoll()
        self._wake = os.pipe()
        self._poll.register(self._wake[0], select.EPOLLIN)
        threading.Thread(target=self._run, args=(self._poll,), name="mshare-watch", daemon=True).start()

    def _run(self, poll: select.epoll) -> None:
        while True:
            with self._lock:
                looking = any(len(files) == 1 for files in self._files.values())
            events = poll.poll(_POLL_SECONDS if looking else None)
            with self._lock:
                windows = list(self._files) if looking else []
                for fd, __ in events:
                    if fd == self._wake[0]:
                        os.read(fd, 4096)
                    elif fd in self._windows:
                        windows.append(self._windows[fd])
            for window in dict.fromkeys(windows):
                self._refresh(window)


WATCHER = Watcher()
os.register_at_fork(after_in_child=WATCHER.after_fork)
