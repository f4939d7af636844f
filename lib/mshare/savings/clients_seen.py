# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a launcher reported of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest


@dataclass(frozen=True)
class DeadClient:
    """A client that ended before it was told to."""

    number: int
    pid: int
    reason: str


@dataclass(frozen=True)
class ClientsSeen:
    """What the launcher saw of a region's clients: the fields of its status file that count here."""

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
    """What each client touched; None where the clients are programs of the user's."""
    stride_bytes: int | None = None
    attach_ms_median: float | None = None
    attach_ms_max: float | None = None
    grown_how: str = "growth of VmPTE"
    """Where the clients' own page tables are from."""
    vm_pte_before_bytes_sum: int | None = None
    """Over the attached clients, before they mapped the region."""
    vm_pte_after_bytes_sum: int | None = None
    """Over the same clients, after they touched their span."""
    host_page_tables_before_bytes: int | None = None
    """PageTables of /proc/meminfo before the first client was started."""
    host_page_tables_after_bytes: int | None = None

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> ClientsSeen:
        """Take the fields from a status file; others are left alone.

        Raises InvalidRequest when one without which nothing can be said is missing.
        """
        missing = [name for name in ("region", "backend", "requested", "attached") if name not in status]
        if missing:
            raise InvalidRequest(
                f"the clients' status has no {', '.join(missing)}; start the clients with this release"
                " of mshare and validate again"
            )
        known = {name: status[name] for name in cls.__dataclass_fields__ if name in status}
        known["dead"] = tuple(
            DeadClient(one["number"], one["pid"], one["reason"]) for one in status.get("dead") or ()
        )
        known["errors"] = tuple(str(error) for error in status.get("errors") or ())
        return cls(**known)

    @property
    def grown_bytes(self) -> int | None:
        """By how much the clients' own page tables grew in all, or None where nobody looked."""
        grown = _difference(self.vm_pte_before_bytes_sum, self.vm_pte_after_bytes_sum)
        # A client that gives tables of its own back meanwhile has no negative cost.
        return None if grown is None else max(0, grown)

    @property
    def host_grown_bytes(self) -> int | None:
        """By how much the host's PageTables grew while the clients came."""
        return _difference(self.host_page_tables_before_bytes, self.host_page_tables_after_bytes)


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
