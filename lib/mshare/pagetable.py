# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page-table arithmetic for x86-64 with four levels.

A process pays one leaf table (4 KiB) for every 2 MiB range it touches, one PMD table for every
1 GiB range and one PUD table for every 512 GiB range. Ranges count, not pages: touching one page per
2 MiB costs the same tables as touching all 512. The PGD is in `PageTables` of /proc/meminfo
but not in a process's `VmPTE`, so it is left out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .errors import InvalidRequest
from .units import GIB, KIB, MIB, format_size

TABLE_BYTES = 4 * KIB
BASE_PAGE_BYTES = 4 * KIB
PAGE_SIZES_BYTES = (4 * KIB, 2 * MIB, GIB)
LEAF_SPAN_BYTES = 2 * MIB
STRIDE_BYTES = LEAF_SPAN_BYTES
"""One touched page per leaf table: the fewest pages that cost all page tables."""
_PMD_SPAN_BYTES = GIB
_PUD_SPAN_BYTES = 512 * GIB


@dataclass(frozen=True)
class PageTables:
    """Bytes of page tables that one process needs for one range, by level."""

    leaf_bytes: int
    pmd_bytes: int
    pud_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.leaf_bytes + self.pmd_bytes + self.pud_bytes


def page_tables(size_bytes: int, page_bytes: int = BASE_PAGE_BYTES, start: int = 0) -> PageTables:
    """Page tables of one process that touched every 2 MiB range of [start, start + size).

    `page_bytes` is 4 KiB, 2 MiB (no leaf tables) or 1 GiB (no PMD tables either).
    Raises InvalidRequest for another page size or a negative range.
    """
    if page_bytes not in PAGE_SIZES_BYTES:
        sizes = ", ".join(format_size(size) for size in PAGE_SIZES_BYTES)
        raise InvalidRequest(
            f"page size {format_size(page_bytes)} does not exist on x86-64; use one of {sizes}"
        )
    if size_bytes < 0 or start < 0:
        raise InvalidRequest(f"a range of {size_bytes} bytes at {start:#x} does not exist")

    def tables(span_bytes: int) -> int:
        if size_bytes == 0:
            return 0
        return ((start + size_bytes - 1) // span_bytes - start // span_bytes + 1) * TABLE_BYTES

    return PageTables(
        leaf_bytes=tables(LEAF_SPAN_BYTES) if page_bytes < 2 * MIB else 0,
        pmd_bytes=tables(_PMD_SPAN_BYTES) if page_bytes < GIB else 0,
        pud_bytes=tables(_PUD_SPAN_BYTES),
    )


class Totals(NamedTuple):
    """Page tables of all clients, in bytes: each with its own, or one set for all."""

    without_sharing_bytes: int
    with_sharing_bytes: int


def totals(size_bytes: int, clients: int, page_bytes: int = BASE_PAGE_BYTES) -> Totals:
    """What `clients` processes pay for a segment without and with shared tables.

    All tables below the PGD entry are shared, so an attached process adds none of its own for the
    region. What it pays for its program is in neither figure.
    """
    client_bytes = page_tables(size_bytes, page_bytes).total_bytes
    return Totals(client_bytes * clients, client_bytes if clients else 0)


def span_for_budget(budget_bytes: int) -> int:
    """The largest span, in whole 2 MiB ranges, whose page tables fit into a budget."""
    tables = max(0, budget_bytes) // TABLE_BYTES
    span_bytes = 0
    # First full tables of each level with everything below them, then one partly filled table.
    for level_bytes, cost in ((_PUD_SPAN_BYTES, 1 + 512 + 512 * 512), (_PMD_SPAN_BYTES, 1 + 512)):
        full, tables = divmod(tables, cost)
        span_bytes += full * level_bytes
        tables = max(0, tables - 1)
    return span_bytes + tables * LEAF_SPAN_BYTES
