# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mapped in a region, as its owner wrote it down: a kernel lists nothing of it.

Whoever maps or unmaps something through this library has it changed there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .. import files
from ..backends.mapping import Mapping, MappingEntry
from ..errors import Conflict, MshareError, sentence
from ..kernel.abi import PAGE_BYTES
from ..services import status_file
from ..services.lock import locked
from ..services.status_file import Unread
from ..units import round_up
from .pattern import Pattern
from .status import OWNER, OwnerStatus

_LOCK_SECONDS = 10.0


@dataclass
class Change:
    """A range of a region that was mapped anew, unmapped, or protected."""

    offset: int
    size_bytes: int
    mapping: Mapping | None = None
    """What is there afterwards."""
    prot: int | None = None
    """The new protection of what is there, where that is all that changes."""
    unrecorded: str | None = None
    """Why it could not be written down."""

    @classmethod
    def to(cls, mapping: Mapping) -> Change:
        return cls(mapping.offset, mapping.size_bytes, mapping)

    @property
    def end(self) -> int:
        return self.offset + round_up(self.size_bytes, PAGE_BYTES)

    def apply(self, mappings: Iterable[Mapping]) -> list[Mapping]:
        """What is mapped after it, in the order of the offsets."""
        before = list(mappings)
        changed = [piece for each in before for piece in each.without(self.offset, self.end)]
        if self.prot is not None:
            parts = (each.part(self.offset, self.end) for each in before)
            changed += [replace(part, prot=self.prot) for part in parts if part is not None]
        if self.mapping is not None:
            changed.append(replace(self.mapping, size_bytes=self.end - self.offset))
        return sorted(changed, key=lambda mapping: mapping.offset)

    def spares(self, pattern: Pattern | None) -> bool:
        """Whether a pattern is still where the owner wrote it."""
        if pattern is None or self.prot is not None:
            return True
        return self.end <= pattern.offset or pattern.offset + pattern.span_bytes <= self.offset


@contextlib.contextmanager
def recorded(root: str, name: str, change: Change) -> Iterator[None]:
    """Make a change of a region in the block, and write it down.

    Conflict, before anything is changed, while the owner still fills the region. A user who may change the
    region, but not what its owner wrote down, finds in `change.unrecorded` why it was not.
    """
    status = status_file.peek(root, name, OWNER)
    if isinstance(status, Unread):
        change.unrecorded = status.reason
    if not isinstance(status, OwnerStatus) or not status.alive or status.pid == os.getpid():
        # Nobody has written anything down that could become wrong; an owner writes by itself.
        yield
        return
    if status.state != "ready":
        raise Conflict(
            f"what is mapped in region {name} cannot be changed yet: its owner {status.pid} is"
            f" {status.state}; wait until `mshare list` shows it as healthy"
        )
    lock = status_file.file(root, name, OWNER, "mappings.lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, f"what is mapped in region {name}", _LOCK_SECONDS))
            held.callback(files.remove, lock)
        except PermissionError as error:
            change.unrecorded = sentence(error)
        yield
        if change.unrecorded is None:
            _write(root, name, change)


def _write(root: str, name: str, change: Change) -> None:
    try:
        status = status_file.read(root, name, OWNER)
        if status is not None and status.mappings is not None:
            mappings = change.apply(entry.mapping() for entry in status.mappings)
            status_file.write(
                status_file.file(root, name, OWNER),
                replace(
                    status,
                    mappings=tuple(MappingEntry.of(mapping) for mapping in mappings),
                    mapped_bytes=sum(mapping.size_bytes for mapping in mappings),
                    pattern=status.pattern if change.spares(status.pattern) else None,
                ),
            )
    except (MshareError, OSError) as error:
        change.unrecorded = sentence(error)
