# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a launcher reported about its clients."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..clients.status import DeadClient
from ..errors import MshareError
from ..info.facts import ClientsFacts
from .shared_tables import SharedTables


@dataclass(frozen=True)
class ClientsSeen:
    """What is known of a region's clients: the launcher's facts that count here."""

    region: str
    backend: str
    requested: int
    attached: int
    generation: str = ""
    dead: tuple[DeadClient, ...] = ()
    errors: tuple[str, ...] = ()
    window_bytes: int | None = None
    mapped_bytes: int | None = None
    span_bytes: int | None = None
    """What each client touched; None if the clients are the user's own programs."""
    stride_bytes: int | None = None
    attach_ms_median: float | None = None
    attach_ms_max: float | None = None
    attached_how: str = "the launcher's count"
    """Where the number of clients is from."""
    grown_how: str = "growth of VmPTE"
    """The source of the clients' own page tables."""
    vm_pte_before_bytes_sum: int | None = None
    """Over the attached clients, before they mapped the region."""
    vm_pte_after_bytes_sum: int | None = None
    """Over the same clients, after they touched their span."""
    host_page_tables_before_bytes: int | None = None
    """PageTables in /proc/meminfo before the first client was started."""
    host_page_tables_after_bytes: int | None = None
    shared_tables: SharedTables | None = None
    """Of a kernel's region, where they could be measured."""
    huge_bytes: int = 0
    """How much of the span is in pages of 2 MiB."""

    @classmethod
    def of(cls, facts: ClientsFacts) -> ClientsSeen:
        """Take the facts that count; MshareError where the launcher's status cannot be read."""
        if facts.requested is None or facts.attached is None:
            raise MshareError(facts.errors[0])
        seen_elsewhere = {"attached_how", "grown_how", "shared_tables", "huge_bytes"}
        own = {field.name for field in fields(cls)} - {"backend", "generation"} - seen_elsewhere
        return cls(
            **{name: getattr(facts, name) for name in own - {"span_bytes"}},
            # Nobody asked programs of the user's to touch anything, and what they touch is not known.
            span_bytes=facts.span_bytes or None,
            backend=facts.backend or "",
            generation=facts.generation or "",
        )

    @property
    def grown_bytes(self) -> int | None:
        """By how much the clients' own page tables grew in all; None if that was not measured."""
        grown = _difference(self.vm_pte_before_bytes_sum, self.vm_pte_after_bytes_sum)
        # A client that frees tables in the meantime has no negative cost.
        return None if grown is None else max(0, grown)

    @property
    def host_grown_bytes(self) -> int | None:
        """By how much the host's PageTables grew while the clients attached."""
        return _difference(self.host_page_tables_before_bytes, self.host_page_tables_after_bytes)


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
