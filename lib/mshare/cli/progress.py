# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A progress bar that reads status files, of an owner that prefaults or a launcher that starts clients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ..clients.status import LauncherStatus
from ..region.status import OwnerStatus
from ..services.status_file import Status
from ..units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_SECONDS = 2.0
"""A bar that disappears at once is useless."""


class Step(NamedTuple):
    """Progress of a task."""

    done: int
    total: int
    text: str


def step(status: Status | None) -> Step | None:
    """The progress in a status file; None if it has none."""
    if isinstance(status, OwnerStatus) and status.state == "prefaulting" and status.prefault is not None:
        done, total = status.prefault.done_bytes, status.prefault.total_bytes
        return Step(done, total, f"prefaulted {format_size(done)} of {format_size(total)}")
    if isinstance(status, LauncherStatus):
        done, total = status.attached, status.requested
        return Step(done, total, f"{done} of {total} attached")
    return None


class Bar:
    """Called repeatedly with a status."""

    def __init__(self, what: str, shown: bool) -> None:
        self._what = what
        self._shown = shown
        self._started = time.monotonic()
        self._drawn: tuple[Progress, TaskID] | None = None

    def __call__(self, status: Status | None) -> None:
        if self._shown:
            self.step(step(status), at_once=status is not None and status.state == "prefaulting")

    def step(self, now: Step | None, at_once: bool = False) -> None:
        """Show the progress; a bar appears after two seconds, or at once for long tasks."""
        if not self._shown:
            return
        if self._drawn is None and (at_once or time.monotonic() - self._started > _PATIENCE_SECONDS):
            self._drawn = self._draw()
        if self._drawn is not None:
            progress, task = self._drawn
            if now is not None:
                progress.update(task, completed=now.done, total=now.total, text=now.text)

    def _draw(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        progress.start()
        return progress, progress.add_task(self._what, total=None, text="")

    def end(self) -> None:
        """Remove the bar."""
        if self._drawn is not None:
            self._drawn[0].stop()
            self._drawn = None
