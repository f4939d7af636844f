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

import bisect
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InvalidRequest
from .units import GIB, KIB, MIB, format_size, round_up

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
        sizes = ", ".join(format_size(each) for each in PAGE_SIZES_BYTES)
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


class Layout:
    """Page tables of one process for many ranges: a table that several of them need is counted once."""

    def __init__(self) -> None:
        self._leaf, self._pmd, self._pud = (
            _Spans(LEAF_SPAN_BYTES),
            _Spans(_PMD_SPAN_BYTES),
            _Spans(_PUD_SPAN_BYTES),
        )
        self._ends: list[tuple[int, int]] = []

    def add(self, start: int, size_bytes: int, page_bytes: int = BASE_PAGE_BYTES) -> PageTables:
        """The tables that [start, start + size) needs, touched everywhere, and no earlier range did."""
        if size_bytes <= 0:
            return PageTables(0, 0, 0)
        last = start + size_bytes - 1
        return PageTables(
            leaf_bytes=self._leaf.add(start, last) if page_bytes < 2 * MIB else 0,
            pmd_bytes=self._pmd.add(start, last) if page_bytes < GIB else 0,
            pud_bytes=self._pud.add(start, last),
        )

    def add_transparent(self, start: int, size_bytes: int) -> PageTables:
        """The same for transparent huge pages, which the ends that fill no 2 MiB cannot have."""
        end = start + size_bytes
        first_whole, last_whole = -(-start // (2 * MIB)) * 2 * MIB, end // (2 * MIB) * 2 * MIB
        if first_whole >= last_whole:
            return self.add(start, size_bytes)
        parts = (
            self.add(start, first_whole - start),
            self.add(first_whole, last_whole - first_whole, 2 * MIB),
            self.add(last_whole, end - last_whole),
        )
        return PageTables(
            sum(part.leaf_bytes for part in parts),
            sum(part.pmd_bytes for part in parts),
            sum(part.pud_bytes for part in parts),
        )

    def place(self, start: int, size_bytes: int, page_bytes: int) -> int:
        """Where a range of whole pages would begin: at `start`, rounded down, or behind what is there."""
        begin = start // page_bytes * page_bytes
        # Sorted, and none upon another: what ends before `begin` is passed over.
        at = max(0, bisect.bisect_left(self._ends, (begin, begin)) - 1)
        while at < len(self._ends) and self._ends[at][0] < begin + size_bytes:
            begin = max(begin, round_up(self._ends[at][1], page_bytes))
            at += 1
        low, high = begin, begin + size_bytes
        # Neighbours are one run, so that many segments side by side are passed over at once.
        first = at - 1 if at and self._ends[at - 1][1] == low else at
        last = at + 1 if at < len(self._ends) and self._ends[at][0] == high else at
        if first < at:
            low = self._ends[first][0]
        if last > at:
            high = self._ends[at][1]
        self._ends[first:last] = [(low, high)]
        return begin


class _Spans:
    """Which tables of one level there are, as runs of neighbours."""

    def __init__(self, span_bytes: int) -> None:
        self._span_bytes = span_bytes
        self._runs: list[tuple[int, int]] = []

    def add(self, start: int, last: int) -> int:
        """Bytes of the tables for [start, last] that are new."""
        low, high = start // self._span_bytes, last // self._span_bytes
        before = bisect.bisect_left(self._runs, (low, low))
        while before and self._runs[before - 1][1] >= low - 1:
            before -= 1
        behind, known = before, 0
        first, final = low, high
        while behind < len(self._runs) and self._runs[behind][0] <= high + 1:
            run = self._runs[behind]
            known += max(0, min(high, run[1]) - max(low, run[0]) + 1)
            first, final = min(first, run[0]), max(final, run[1])
            behind += 1
        self._runs[before:behind] = [(first, final)]
        return (high - low + 1 - known) * TABLE_BYTES
