# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arithmetic that every saving stands on."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mshare.errors import InvalidRequest
from mshare.pagetable import TABLE_BYTES, page_tables, span_for_budget, totals
from mshare.units import GIB, KIB, MIB, TIB

SPANS = {"leaf": 2 * MIB, "pmd": GIB, "pud": 512 * GIB}


def test_the_cover_letters_example():
    """300 GiB and 1,500 clients: 878.9 GiB of leaf tables, 880.6 GiB in all."""
    one = page_tables(300 * GIB)
    assert round(one.leaf_bytes * 1500 / GIB, 1) == 878.9
    without, with_sharing = totals(300 * GIB, 1500)
    assert round(without / GIB, 1) == 880.6
    assert round(with_sharing / GIB, 1) == 0.6
    assert without == 1500 * with_sharing


def test_what_a_stock_kernel_measured_for_300_gib():
    assert 615_600 * KIB <= page_tables(300 * GIB).total_bytes <= 615_608 * KIB


@pytest.mark.parametrize(
    ("size", "page", "leaf", "pmd", "pud"),
    [
        (0, 4 * KIB, 0, 0, 0),
        (1, 4 * KIB, 1, 1, 1),
        (2 * MIB, 4 * KIB, 1, 1, 1),
        (2 * MIB + 1, 4 * KIB, 2, 1, 1),
        (GIB, 4 * KIB, 512, 1, 1),
        (512 * GIB, 4 * KIB, 512 * 512, 512, 1),
        (TIB, 4 * KIB, 1024 * 512, 1024, 2),
        (GIB, 2 * MIB, 0, 1, 1),
        (300 * GIB, 2 * MIB, 0, 300, 1),
        (300 * GIB, GIB, 0, 0, 1),
    ],
)
def test_tables_by_level(size, page, leaf, pmd, pud):
    one = page_tables(size, page)
    assert (one.leaf_bytes, one.pmd_bytes, one.pud_bytes) == tuple(n * TABLE_BYTES for n in (leaf, pmd, pud))
    assert one.total_bytes == (leaf + pmd + pud) * TABLE_BYTES


@given(st.integers(0, 4 * GIB), st.integers(0, 4 * GIB))
@example(size=2, start=2 * MIB - 1)
@example(size=2 * MIB, start=GIB - MIB)
def test_each_range_that_holds_a_byte_costs_one_table(size, start):
    touched = {level: set() for level in SPANS}
    # One byte per 2 MiB range, and the last one: no page of the range is further from these.
    for byte in [*range(start, start + size, 2 * MIB), *([start + size - 1] if size else [])]:
        for level, span in SPANS.items():
            touched[level].add(byte // span)
    one = page_tables(size, start=start)
    assert one.leaf_bytes == len(touched["leaf"]) * TABLE_BYTES
    assert one.pmd_bytes == len(touched["pmd"]) * TABLE_BYTES
    assert one.pud_bytes == len(touched["pud"]) * TABLE_BYTES


@given(st.integers(0, 4 * TIB))
@example(0)
@example(3 * TABLE_BYTES)
@example((1 + 1 + 512) * TABLE_BYTES)
@example((1 + 512 + 512 * 512) * TABLE_BYTES)
def test_the_span_for_a_budget_is_the_largest_that_fits(budget):
    span = span_for_budget(budget)
    assert span % (2 * MIB) == 0
    assert page_tables(span).total_bytes <= budget
    assert page_tables(span + 2 * MIB).total_bytes > budget


def test_no_span_for_no_budget():
    assert span_for_budget(-1) == span_for_budget(0) == span_for_budget(2 * TABLE_BYTES) == 0


def test_nobody_attached_costs_nothing():
    assert totals(300 * GIB, 0) == (0, 0)


def test_a_page_size_that_does_not_exist():
    with pytest.raises(InvalidRequest) as caught:
        page_tables(GIB, 64 * KIB)
    assert str(caught.value) == "page size 64 KiB does not exist on x86-64; use one of 4 KiB, 2 MiB, 1 GiB"


@pytest.mark.parametrize(("size", "start"), [(-1, 0), (1, -1)])
def test_ranges_that_do_not_exist(size, start):
    with pytest.raises(InvalidRequest, match="does not exist"):
        page_tables(size, start=start)
