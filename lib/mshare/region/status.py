# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a region's owner writes down of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..backends.mapping import MappingEntry
from ..errors import MshareError
from ..services import status_file
from ..services.status_file import Role, Status, Unread, beginning
from .pattern import Pattern


@dataclass(frozen=True)
class Prefault:
    """How far an owner is with prefaulting."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class OwnerStatus(Status):
    """The owner's status file. None is what is not known yet."""

    spec: Mapping[str, object]
    """The normal form of what the region was made with. Not a RegionSpec: another version of the library
    may have written keys that this one does not know, and they then differ from what is wanted."""
    path: str | None
    backend: str | None
    generation: str | None
    oom_score_adjust: int | None
    address: int | None
    """Where every process must attach; None where each may choose."""
    window_bytes: int | None
    mapped_bytes: int | None
    mappings: tuple[MappingEntry, ...] | None
    prefault: Prefault | None
    pattern: Pattern | None
    host_page_tables_before_bytes: int | None = None
    """PageTables of /proc/meminfo before the region was made."""
    filler_reason: str | None = None
    """Why Python touched the region or wrote its pattern, where the program in C could have; None where it
    did, or there was nothing to do."""

    @property
    def touched_bytes(self) -> int:
        """How much of the region the owner touched itself: the tables of that exist before any client."""
        patterned_bytes = self.pattern.span_bytes if self.pattern is not None else 0
        return max(patterned_bytes, self.prefault.done_bytes if self.prefault is not None else 0)


OWNER = Role("owner", OwnerStatus)


def starting(name: str, root: str, spec: Mapping[str, object]) -> OwnerStatus:
    """Of this process as an owner that has not done anything yet."""
    return OwnerStatus(
        **beginning(name, root),
        spec=spec,
        path=None,
        backend=None,
        generation=None,
        oom_score_adjust=None,
        address=None,
        window_bytes=None,
        mapped_bytes=None,
        mappings=None,
        prefault=None,
        pattern=None,
    )


def require_owner(name: str, root: str) -> OwnerStatus:
    """The status of the owner of a region that can be attached; MshareError if there is none."""
    status = running_owner(name, root)
    if status is None or status.state != "ready":
        raise MshareError(
            f"region {name} at {root} has no running owner, so there is nothing to attach; create it first"
            " (`mshare create`, or the role dbmem.mshare.region)"
        )
    return status


def running_owner(name: str, root: str) -> OwnerStatus | None:
    """The status of an owner that lives, also of one that root deployed; None without one. Conflict for one
    that this version of the library cannot read."""
    status = status_file.observe(root, name, OWNER)
    if isinstance(status, Unread):
        status = status_file.read(root, name, OWNER)
    return status if status is not None and status.alive else None
