# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps simulated windows true while other processes change the region or its owner dies.

A kernel changes the shared tables once and every process sees it. Here one thread per process waits
for writes to the sidecars and for the ends of the owners, and maps anew what changed.
"""

from __future__ import annotations

import os
import selectors
import threading
from typing import Protocol

from .. import libc

# An owner that is not its process's main thread has no pidfd before Linux 6.9: it is looked at.
_LOOK_SECONDS = 0.05


class Watched(Protocol):
    @property
    def sidecar_path(self) -> str:
        """The file whose writes announce a change."""

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
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[int, int] = (-1, -1)

    def add(self, window: Watched) -> None:
        """Watch a window from now on."""
        with self._lock:
            self._watch(window)
            if self._selector is None:
                self._start()
            else:
                os.write(self._wake[1], b"+")

    def remove(self, window: Watched) -> None:
        """Stop watching; unknown windows are fine."""
        with self._lock:
            for fd in self._files.pop(window, []):
                if self._selector is not None and fd in self._selector.get_map():
                    self._selector.unregister(fd)
                os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: the windows are there, the thread is not."""
        windows = list(self._files)
        # Descriptors of inotify and epoll are shared with the parent: reading would steal its events.
        for fd in [fd for files in self._files.values() for fd in files] + list(self._wake):
            if fd >= 0:
                os.close(fd)
        if self._selector is not None:
            self._selector.close()
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
            # An object this process may not open: its range stays a hole, the rest goes on.
            return
        if ended:
            self.remove(window)
            window.ended()

    def _watch(self, window: Watched) -> None:
        files = [libc.watch_writes(window.sidecar_path)]
        pidfd = window.owner_pidfd()
        if pidfd is not None:
            files.append(pidfd)
        self._files[window] = files
        if self._selector is not None:
            self._register(window)

    def _register(self, window: Watched) -> None:
        assert self._selector is not None
        for fd in self._files[window]:
            self._selector.register(fd, selectors.EVENT_READ, window)

    def _start(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake = os.pipe()
        self._selector.register(self._wake[0], selectors.EVENT_READ)
        for window in self._files:
            self._register(window)
        threading.Thread(target=self._run, args=(self._selector,), name="mshare-watch", daemon=True).start()

    def _run(self, selector: selectors.BaseSelector) -> None:
        while True:
            with self._lock:
                looking = any(len(files) == 1 for files in self._files.values())
            events = selector.select(_LOOK_SECONDS if looking else None)
            with self._lock:
                windows = list(self._files) if looking else []
                for key, __ in events:
                    if key.data is None:
                        os.read(key.fd, 4096)
                    elif key.data in self._files:
                        windows.append(key.data)
                        if key.fd == self._files[key.data][0]:
                            os.read(key.fd, 4096)
            for window in dict.fromkeys(windows):
                self._refresh(window)


WATCHER = Watcher()
os.register_at_fork(after_in_child=WATCHER.after_fork)
