# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan recommends, applied, leaves nothing to recommend."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

from mshare.plan.facts import from_survey
from mshare.plan.plan import InstancePlan, Plan, plan
from mshare.survey.survey import survey
from mshare.units import MIB, TIB
from rig import huge_pages
from rig.survey_parts import LIBC, map_shared, running, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users' page tables are root's to read")
SIZE = 64 * MIB
HUGETLB_2MIB = 0x40000 | 21 << 26
MADV_COLLAPSE = 25
ADDRESS = 32 * TIB
CLIENTS = 20


def planned(pids: list[int]) -> tuple[Plan, InstancePlan]:
    """The plan for the instance of these processes alone."""
    surveyed = survey(threshold_bytes=1)
    (name,) = (one.name for one in surveyed.instances if pids[0] in one.pids)
    made = plan(from_survey(surveyed, instance=name))
    return made, made.instances[0]


def nothing_is_left(pids: list[int]) -> None:
    made, one = planned(pids)
    assert one.outlook.done is not None
    assert "already" in one.outlook.done
    assert (one.outlook.remedy_id, one.outlook.command, one.outlook.saving_bytes) == (None, None, 0)
    assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ())


def clients(flags: int = 0) -> Iterator[list[int]]:
    """Processes that share a segment at one address; by fork, as a server's do."""
    address = map_shared(-1, SIZE, address=ADDRESS, flags=flags)
    try:
        with running(lambda number: touch(address, SIZE), CLIENTS) as pids:
            yield pids
    finally:
        LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(SIZE))


def process_madvise(pid: int, address: int, size_bytes: int) -> int:
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    pidfd = os.pidfd_open(pid)
    try:
        vector = Vector(address, size_bytes)
        return int(LIBC.syscall(440, pidfd, ctypes.byref(vector), ctypes.c_size_t(1), MADV_COLLAPSE, 0))
    finally:
        os.close(pidfd)


def test_collapsed_live() -> None:
    for pids in clients():
        __, before = planned(pids)
        row = before.row("collapse")
        assert row.usable, row.reasons
        for pid in pids:
            if process_madvise(pid, ADDRESS, SIZE) != SIZE:
                pytest.skip("this machine has no free huge pages to collapse into")
        nothing_is_left(pids)
        __, after = planned(pids)
        assert after.today_bytes is not None
        # What the row promised, but for the tables above the segment that every process has anyhow.
        assert abs(after.today_bytes - row.after_bytes) <= CLIENTS * 16 * 1024


def test_in_the_pool() -> None:
    with huge_pages.reserved(SIZE // (2 * MIB)):
        for pids in clients(HUGETLB_2MIB):
            nothing_is_left(pids)


def test_small_pages_are_given_a_remedy() -> None:
    for pids in clients():
        __, one = planned(pids)
        assert one.outlook.done is None
        assert one.outlook.remedy_id in ("preload_hugetlb", "preload_thp", "collapse")
        assert one.outlook.saving_bytes > 0
