# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making pools larger and smaller while the kernel runs.

The kernel grants what it can: less, where it finds no more contiguous memory. So pages are asked for in
steps, what was granted is read back, and a step that grants nothing is tried again after memory was
compacted, a limited number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..units import MIB
from .kernel import Kernel
from .spec import pool_text

_STEPS = 20
_STEP_BYTES = 128 * MIB
"""The least that is asked for at once."""
_IDLE = 3
"""How many steps in a row may grant nothing before the kernel is taken at its word."""
_COMPACTIONS = 12
"""How often memory is compacted at most, also if each time a few pages are granted."""

Progress = Callable[[int, int], None]
"""Called with the bytes granted and the bytes asked for."""


def no_progress(granted_bytes: int, asked_bytes: int) -> None:
    """The progress of a caller that shows none."""


@dataclass(frozen=True)
class Change:
    """A pool that is to have another number of pages."""

    page_bytes: int
    node: int | None
    before: int
    wanted: int

    @property
    def text(self) -> str:
        return pool_text(self.page_bytes, self.node)

    @property
    def growth_bytes(self) -> int:
        return (self.wanted - self.before) * self.page_bytes


@dataclass(frozen=True)
class Short:
    """A pool for which the kernel granted less than was asked for."""

    change: Change
    granted: int

    @property
    def missing(self) -> int:
        return self.change.wanted - self.granted


def resize(kernel: Kernel, changes: Iterable[Change], progress: Progress = no_progress) -> Short | None:
    """Change pools, those that give memory back first; stops at the first that got less than it should."""
    ordered = sorted(changes, key=lambda change: change.growth_bytes)
    asked_bytes = sum(max(0, change.growth_bytes) for change in ordered)
    done_bytes = 0
    for change in ordered:
        if change.wanted < change.before:
            kernel.set_pages(change.page_bytes, change.node, change.wanted)
            granted = _granted(kernel, change)
        else:
            start_bytes = done_bytes
            granted = _grow(
                kernel,
                change,
                lambda pages, start_bytes=start_bytes, size=change.page_bytes: progress(  # type: ignore[misc]
                    start_bytes + pages * size, asked_bytes
                ),
            )
            done_bytes += change.growth_bytes
        if granted < change.wanted:
            return Short(change, granted)
    return None


def _granted(kernel: Kernel, change: Change) -> int:
    return kernel.pool(change.page_bytes, change.node).persistent


def _grow(kernel: Kernel, change: Change, progress: Callable[[int], None]) -> int:
    """Pages that the pool has in the end."""
    step = max(1, _STEP_BYTES // change.page_bytes, (change.wanted - change.before) // _STEPS)
    have = _granted(kernel, change)
    idle = compactions = 0
    while have < change.wanted and idle < _IDLE:
        kernel.set_pages(change.page_bytes, change.node, min(change.wanted, have + step))
        now = _granted(kernel, change)
        idle = 0 if now > have else idle + 1
        if now < min(change.wanted, have + step):
            if compactions == _COMPACTIONS:
                return now
            kernel.compact(change.node)
            compactions += 1
        have = now
        progress(have - change.before)
    return have


def put_back(kernel: Kernel, changes: Iterable[Change]) -> list[Short]:
    """Give pools the size they had; what others did to them meanwhile stays, and so do pages in use.

    Those that could not get all of it back, because the kernel has no contiguous memory for it any more.
    """
    short = []
    for change in sorted(changes, key=lambda change: -change.growth_bytes):
        pool = kernel.pool(change.page_bytes, change.node)
        if pool.persistent == change.before:
            continue
        wanted = change.before
        if change.wanted > change.before:
            wanted = max(
                change.before,
                min(pool.used, pool.persistent),
                pool.persistent - change.wanted + change.before,
            )
        kernel.set_pages(change.page_bytes, change.node, wanted)
        granted = _granted(kernel, change)
        if granted < wanted:
            short.append(Short(change, granted))
    return short
