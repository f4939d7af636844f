# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roll of a launcher: who lives, who died, and figures over those that are attached."""

from __future__ import annotations

import random
import statistics

import pytest

from mshare.clients.client import Report, Touched
from mshare.clients.roll import Member, Roll
from mshare.clients.status import DeadClient


def touched(attach_us: int, before_bytes: int = 4096, after_bytes: int = 12288) -> Touched:
    return Touched(
        attach_us=attach_us,
        touch_us=1,
        vm_pte_before_bytes=before_bytes,
        vm_pte_after_bytes=after_bytes,
        verified_pages=1,
        wrong_pages=0,
    )


def member(number: int, pid: int, report: Report | None = None, settled_bytes: int | None = None) -> Member:
    return Member(number, pid, 0.0, report, settled_bytes)


def roll(*members: Member) -> Roll:
    some = Roll()
    for each in members:
        some.add(each)
    return some


WAITING = member(0, 10)
OURS = member(1, 11, Report(11, 1, touched(1000)))
LATER = member(2, 12, Report(12, 2, touched(3000, 8192, 16384)))
FAILED = member(3, 13, Report(13, 3, error="no memory"))
PROGRAM = member(4, 14, settled_bytes=20480)


def test_a_client_is_attached_once_it_has_touched_or_lived_for_long_enough() -> None:
    some = roll(WAITING, OURS, FAILED, PROGRAM)
    assert some.attached == 2
    assert [each.number for each in some.waiting.values()] == [0, 3]
    assert some.numbers() == {0, 1, 3, 4}


def test_who_ends_is_written_down_with_the_reason() -> None:
    some = roll(WAITING, OURS)
    assert some.bury(11, "was killed by SIGKILL") is OURS
    assert some.dead == [DeadClient(1, 11, "was killed by SIGKILL")]
    assert some.numbers() == {0}


def test_a_process_that_was_no_client_is_not_written_down() -> None:
    some = roll(OURS)
    assert some.bury(999, "ended with exit code 0") is None
    assert some.dead == []


def test_times_are_those_of_the_attached_in_milliseconds() -> None:
    some = roll(WAITING, OURS, LATER)
    assert (some.attach_ms_median(), some.attach_ms_max()) == (2.0, 3.0)


def test_page_tables_are_summed_over_the_attached() -> None:
    some = roll(WAITING, OURS, LATER)
    assert (some.vm_pte_before_bytes(), some.vm_pte_after_bytes()) == (4096 + 8192, 12288 + 16384)


@pytest.mark.parametrize("some", [roll(PROGRAM), roll(OURS, PROGRAM)])
def test_what_nobody_measured_is_none_and_no_zero(some: Roll) -> None:
    # A program of the user's is not looked at before it attaches.
    assert some.vm_pte_before_bytes() is None


def test_programs_of_the_users_have_page_tables_and_no_times() -> None:
    some = roll(PROGRAM)
    assert some.vm_pte_after_bytes() == 20480
    assert (some.attach_ms_median(), some.attach_ms_max()) == (None, None)


class Walked(dict):  # type: ignore[type-arg]
    """Counts how many of its entries were walked."""

    count = 0

    def values(self):  # type: ignore[no-untyped-def]
        self.count += len(self)
        return super().values()

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.count += len(self)
        return super().__iter__()

    items = keys = values


def test_no_look_walks_the_clients() -> None:
    """Thousands may end one after the other, and after each of them the launcher looks."""
    walked = Walked()
    some = Roll(_alive=walked)
    for number in range(2000):
        some.add(Member(number, 100 + number, 0.0))
        some.report(Report(100 + number, number, touched(attach_us=number % 7)))
    for left in range(1999, -1, -1):
        some.bury(2099 - left, "was killed by SIGKILL")
        assert (some.attached, len(some.waiting)) == (left, 0)
        looks = (some.attach_ms_median(), some.attach_ms_max())
        assert looks == ((None, None) if not left else looks)
        assert some.vm_pte_before_bytes() == 4096 * left
        assert some.vm_pte_after_bytes() == 12288 * left
    assert walked.count == 0


def test_the_figures_are_those_of_walking_them() -> None:
    """Whatever happened in between, and in which order."""
    dice = random.Random(1)
    some, kept = Roll(), {}
    for number in range(500):
        kept[number] = Member(number, number, float(number))
        some.add(kept[number])
    for __ in range(3000):
        pid = dice.choice(sorted(kept))
        happens = dice.randrange(8)
        if happens == 0:
            assert some.remove(pid) is kept.pop(pid)
        elif happens == 1:
            some.report(Report(pid, pid, error="no memory"))
        elif happens == 2:
            some.settle(kept[pid], dice.choice([None, 4096]))
        else:
            some.report(Report(pid, pid, touched(dice.randrange(9), after_bytes=dice.randrange(9))))
    attached = [each for each in kept.values() if each.attached]
    assert some.attached == len(attached) > 0
    assert set(some.waiting) == {each.pid for each in kept.values() if not each.attached}
    times = [each.touched.attach_us for each in attached if each.touched is not None]
    assert some.attach_ms_median() == statistics.median(times) / 1000
    assert some.attach_ms_max() == max(times) / 1000
    before = [each.vm_pte_before_bytes for each in attached]
    assert some.vm_pte_before_bytes() == (None if None in before else sum(filter(None, before)))
    assert some.vm_pte_after_bytes() == sum(each.vm_pte_after_bytes or 0 for each in attached)


def test_nobody_attached_has_no_time_and_no_page_tables() -> None:
    assert roll(WAITING).attach_ms_median() is None
    assert roll(WAITING).vm_pte_after_bytes() == 0
