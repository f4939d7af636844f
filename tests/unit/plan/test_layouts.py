# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many segments side by side: what the plan predicts, against VmPTE of processes that really have them."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mshare.pagetable import Layout, page_tables
from mshare.plan.facts import from_survey
from mshare.plan.plan import InstancePlan, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, KIB, MIB, TIB
from rig import huge_pages
from rig.survey_parts import LIBC, map_shared, running, surveyed, touch

root = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
CLOSE_BYTES = 16 * KIB
MADV_COLLAPSE = 25
HUGETLB_2MIB = 0x40000 | 21 << 26
PAGE = 4 * KIB

# Gap before a segment, and its size, in small pages: neighbours, misaligned ones, and smaller than 2 MiB.
LAYOUTS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 16, 511, 512, 5000]) | st.integers(0, 300_000),
        st.sampled_from([256, 512, 4096]) | st.integers(256, 6000),
    ),
    min_size=1,
    max_size=12,
)


def places(layout: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Address and size of each segment."""
    found, at = [], 32 * TIB
    for gap, size in layout:
        at += gap * PAGE
        found.append((at, size * PAGE))
        at += size * PAGE
    return found


def vm_pte_bytes(pid: int | str) -> int:
    found = re.search(r"^VmPTE:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * KIB


def planned(found: dict[str, Any], pid: int) -> InstancePlan:
    one = next(one for one in found["instances"] if pid in one["pids"])
    surveyed = from_fields({**found, "instances": [one]})
    (made,) = plan(from_survey(surveyed)).instances
    return made


def collapse(address: int, size_bytes: int) -> bool:
    start = -(-address // (2 * MIB)) * 2 * MIB
    end = (address + size_bytes) // (2 * MIB) * 2 * MIB
    if start >= end:
        return True
    return not LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


@root
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYOUTS)
def test_today_s_tables_are_those_that_are_measured(layout: list[tuple[int, int]]) -> None:
    """Predicted from where the segments lie, without looking at what was populated."""
    read_fd, write_fd = os.pipe()

    def work(number: int) -> None:
        os.write(write_fd, str(vm_pte_bytes("self")).encode())
        for address, size_bytes in places(layout):
            touch(map_shared(-1, size_bytes, address=address), size_bytes, PAGE)

    with running(work) as (pid,):
        before_bytes = int(os.read(read_fd, 100))
        measured_bytes = vm_pte_bytes(pid) - before_bytes
        found, __ = surveyed(pid)
    os.close(read_fd)
    os.close(write_fd)
    predicted = Layout()
    tables_bytes = sum(predicted.add(*place).total_bytes for place in places(layout))
    assert abs(tables_bytes - measured_bytes) <= CLOSE_BYTES
    if sum(size for __, size in layout) * PAGE >= 2 * MIB:
        made = planned(found, pid)
        assert abs(made.full_touch_bytes - measured_bytes) <= CLOSE_BYTES


@root
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(LAYOUTS)
def test_after_collapse_too(layout: list[tuple[int, int]]) -> None:
    # Of the same remainder modulo 2 MiB as its offset, as MADV_COLLAPSE needs it.
    chosen = [(-(-address // (2 * MIB)) * 2 * MIB, size) for address, size in places(layout)]
    at, aligned = 0, []
    for address, size in chosen:
        at = max(at, address)
        aligned.append((at, size))
        at = -(-(at + size) // (2 * MIB)) * 2 * MIB
    read_fd, write_fd = os.pipe()

    def work(number: int) -> None:
        before_bytes = vm_pte_bytes("self")
        for address, size_bytes in aligned:
            touch(map_shared(-1, size_bytes, address=address), size_bytes, PAGE)
        done = sum(collapse(*place) for place in aligned) == len(aligned)
        os.write(write_fd, f"{before_bytes} {int(done)}".encode())

    with running(work) as (pid,):
        before_bytes, done = map(int, os.read(read_fd, 100).split())
        measured_bytes = vm_pte_bytes(pid) - before_bytes
    os.close(read_fd)
    os.close(write_fd)
    if not done:
        pytest.skip("this machine has no free huge pages to collapse into")
    predicted = Layout()
    tables_bytes = sum(predicted.add_transparent(*place).total_bytes for place in aligned)
    assert abs(tables_bytes - measured_bytes) <= CLOSE_BYTES


SMALL_LAYOUTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 511, 512]) | st.integers(0, 600_000), st.integers(256, 2600)),
    min_size=1,
    max_size=6,
)
POOL_PAGES = 6 * (-(-2600 // 512))


@root
def test_after_hugetlb_too() -> None:
    with huge_pages.reserved(POOL_PAGES):
        in_the_pool()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(SMALL_LAYOUTS)
def in_the_pool(layout: list[tuple[int, int]]) -> None:
    """Where the plan supposes them, segments of small pages are really mapped in pages of 2 MiB."""
    predicted, tables_bytes, chosen = Layout(), 0, []
    for address, size_bytes in places(layout):
        huge_bytes = -(-size_bytes // (2 * MIB)) * 2 * MIB
        start = predicted.place(address, huge_bytes, 2 * MIB)
        tables_bytes += predicted.add(start, huge_bytes, 2 * MIB).total_bytes
        chosen.append((start, huge_bytes))
    read_fd, write_fd = os.pipe()

    def work(number: int) -> None:
        before_bytes = vm_pte_bytes("self")
        for address, size_bytes in chosen:
            touch(map_shared(-1, size_bytes, address=address, flags=HUGETLB_2MIB), size_bytes)
        os.write(write_fd, str(vm_pte_bytes("self") - before_bytes).encode())

    with running(work) as (pid,):
        measured_bytes = int(os.read(read_fd, 100))
        found, one = surveyed(pid)
    os.close(read_fd)
    os.close(write_fd)
    assert abs(tables_bytes - measured_bytes) <= CLOSE_BYTES
    assert abs(one["page_tables"]["segments_bytes"] - measured_bytes) <= CLOSE_BYTES
    made = planned(found, pid)
    assert made.outlook.done is not None
    assert abs(made.full_touch_bytes - measured_bytes) <= CLOSE_BYTES


@given(LAYOUTS)
def test_a_table_is_counted_once(layout: list[tuple[int, int]]) -> None:
    counted, leaf, pmd = Layout(), set(), set()
    for address, size_bytes in places(layout):
        counted_now = counted.add(address, size_bytes)
        mine = set(range(address // (2 * MIB), (address + size_bytes - 1) // (2 * MIB) + 1))
        assert counted_now.leaf_bytes == len(mine - leaf) * PAGE
        leaf |= mine
        over = set(range(address // GIB, (address + size_bytes - 1) // GIB + 1))
        assert counted_now.pmd_bytes == len(over - pmd) * PAGE
        pmd |= over


def test_one_range_is_what_the_arithmetic_says() -> None:
    assert Layout().add(TIB, 300 * GIB) == page_tables(300 * GIB, start=TIB)
    assert Layout().add_transparent(TIB, 300 * GIB) == page_tables(300 * GIB, 2 * MIB, TIB)


def test_huge_pages_do_not_lie_upon_each_other() -> None:
    layout = Layout()
    first = layout.place(TIB + PAGE, 2 * MIB, 2 * MIB)
    second = layout.place(TIB + MIB, 2 * MIB, 2 * MIB)
    assert (first, second) == (TIB, TIB + 2 * MIB)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 20), st.sampled_from([2, 2, 8])), min_size=1, max_size=12
    )
)
def test_huge_pages_lie_at_the_first_place_behind_what_is_there(ranges: list[tuple[int, int, int]]) -> None:
    """In pages of one size or of another; thousands of neighbours are one run for it."""
    layout, taken = Layout(), set()
    for start, pages, page_bytes in ranges:
        size_bytes = pages * page_bytes
        begin = start // page_bytes * page_bytes
        while any(at in taken for at in range(begin, begin + size_bytes)):
            begin += page_bytes
        placed = layout.place(start, size_bytes, page_bytes)
        assert placed % page_bytes == 0
        assert not taken & set(range(placed, placed + size_bytes))
        taken |= set(range(placed, placed + size_bytes))
        assert placed == begin
