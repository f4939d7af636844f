# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How page tables are shared out among segments: exact, sampled, and by known samples. No process is read."""

from __future__ import annotations

from collections import Counter

import pytest

from mshare.host import pagemap
from mshare.host.pagemap import TABLE_BYTES, Tables
from mshare.host.processes import Process, Vanished
from mshare.host.segments import Mapping
from mshare.survey import attribution
from mshare.survey.attribution import SAMPLES, Attribution, Identity, Sample, Samples, attribute
from mshare.units import GIB, KIB, MIB

BUFFERS = Mapping(GIB, 2 * GIB, 0, True, b"00:01", 1, b"/dev/zero")
OTHER = Mapping(4 * GIB, 5 * GIB, 0, True, b"00:01", 2, b"/dev/zero")
PAGES = {BUFFERS.identity: 4096, OTHER.identity: 4096}
OWN_BYTES = 64 * KIB
"""Page tables of each process that belong to no segment."""


def process(pid: int, tables_bytes: int, own_bytes: int = OWN_BYTES) -> Process:
    return Process(pid, b"Name:\tpostgres\nPPid:\t1\n", tables_bytes + own_bytes)


class Proc:
    """Stands for /proc/PID/pagemap: by pid, the tables of each segment, or what opening it raises."""

    def __init__(self, tables: dict[int, dict[Identity, Tables] | Exception]) -> None:
        self.tables = tables
        self.reads: Counter[int] = Counter()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        proc = self

        class Pagemap:
            def __init__(self, pid: int) -> None:
                self.pid = pid

            def __enter__(self) -> int:
                proc.reads[self.pid] += 1
                found = proc.tables[self.pid]
                if isinstance(found, Exception):
                    raise found
                return self.pid

            def __exit__(self, *error: object) -> None:
                pass

        monkeypatch.setattr(attribution.pagemap, "Pagemap", Pagemap)
        monkeypatch.setattr(attribution.pagemap, "tables", lambda opened, mappings: proc.tables[opened])


def tables(leaf: int, of_other: int = 0, huge_bytes: int = 0) -> dict[Identity, Tables]:
    return {
        BUFFERS.identity: pagemap.Tables(leaf, 0, huge_bytes),
        OTHER.identity: pagemap.Tables(of_other, 0, 0),
    }


def test_every_process_is_scanned_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = {pid: pid for pid in range(1, 41)}
    Proc({pid: tables(leaf) for pid, leaf in leaves.items()}).install(monkeypatch)
    group = [process(pid, leaf * TABLE_BYTES) for pid, leaf in leaves.items()]
    done = attribute(group, (BUFFERS, OTHER), PAGES, exact=True)
    assert done.scanned == 40
    assert done.bytes == sum(leaves.values()) * TABLE_BYTES
    assert done.segments[OTHER.identity] == 0


def test_samples_are_enough_where_all_have_the_same_remainder(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = {pid: pid for pid in range(1, 201)}
    proc = Proc({pid: tables(leaf) for pid, leaf in leaves.items()})
    proc.install(monkeypatch)
    group = [process(pid, leaf * TABLE_BYTES) for pid, leaf in leaves.items()]
    done = attribute(group, (BUFFERS, OTHER), PAGES)
    assert done.scanned == SAMPLES
    # The remainder is the same in all, so nothing is lost by not looking.
    assert done.bytes == sum(leaves.values()) * TABLE_BYTES
    assert {1, 200} <= set(proc.reads), "the smallest and the largest are among them"


def test_more_are_scanned_while_samples_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    # Small ones pay for memory of their own, large ones for the segment.
    proc = Proc({pid: tables(0 if pid <= 50 else 1000) for pid in range(1, 101)})
    proc.install(monkeypatch)
    group = [process(pid, 0, MIB) for pid in range(1, 51)]
    group += [process(pid, 1000 * TABLE_BYTES) for pid in range(51, 101)]
    done = attribute(group, (BUFFERS, OTHER), PAGES)
    assert SAMPLES < done.scanned <= 16
    assert done.bytes == pytest.approx(50 * 1000 * TABLE_BYTES, rel=0.05)


def test_segments_share_in_proportion_to_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    Proc({1: tables(30, of_other=10)}).install(monkeypatch)
    done = attribute([process(1, 40 * TABLE_BYTES)], (BUFFERS, OTHER), PAGES)
    assert done.segments == {BUFFERS.identity: 30 * TABLE_BYTES, OTHER.identity: 10 * TABLE_BYTES}


def test_tables_that_shrank_meanwhile_are_no_more_than_the_process_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Proc({1: tables(100)}).install(monkeypatch)
    done = attribute([process(1, 0, 10 * TABLE_BYTES)], (BUFFERS, OTHER), PAGES)
    assert done.bytes == 10 * TABLE_BYTES


@pytest.mark.parametrize("gone", [FileNotFoundError(), ProcessLookupError(), Vanished()])
def test_one_that_ended_is_counted_and_its_neighbour_is_taken(
    monkeypatch: pytest.MonkeyPatch, gone: Exception
) -> None:
    Proc({1: gone, 2: tables(10), 3: tables(10)}).install(monkeypatch)
    group = [process(pid, 10 * TABLE_BYTES) for pid in (1, 2, 3)]
    done = attribute(group, (BUFFERS, OTHER), PAGES)
    assert (done.vanished, done.scanned, done.missing) == (1, 2, [])
    # It was there when the sum was made, and is estimated by the others.
    assert done.bytes == 30 * TABLE_BYTES


def test_a_lone_process_that_ended_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Proc({1: Vanished()}).install(monkeypatch)
    done = attribute([process(1, 10 * TABLE_BYTES)], (BUFFERS, OTHER), PAGES)
    assert (done.vanished, done.scanned, done.bytes) == (1, 0, 0)


def test_one_that_may_not_be_read_is_missing_and_not_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    Proc({1: PermissionError()}).install(monkeypatch)
    done = attribute([process(1, 10 * TABLE_BYTES)], (BUFFERS, OTHER), PAGES)
    assert (done.vanished, done.scanned, done.segments) == (0, 0, {})
    assert [(entry.pid, entry.what) for entry in done.missing] == [(1, "pagemap")]


def test_huge_pages_are_those_of_the_process_that_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    Proc({1: tables(1, huge_bytes=2 * MIB), 2: tables(1, huge_bytes=8 * MIB)}).install(monkeypatch)
    group = [process(pid, TABLE_BYTES) for pid in (1, 2)]
    done = attribute(group, (BUFFERS, OTHER), PAGES, exact=True)
    assert done.huge_bytes[BUFFERS.identity] == 8 * MIB


def test_what_is_known_of_a_process_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proc = Proc({1: tables(10)})
    proc.install(monkeypatch)
    known: Samples = {}
    group = [process(1, 10 * TABLE_BYTES)]
    for __ in range(2):
        assert attribute(group, (BUFFERS, OTHER), PAGES, known=known).bytes == 10 * TABLE_BYTES
    assert proc.reads == {1: 1}


def test_a_sample_has_a_remainder() -> None:
    assert Sample(100, 70, {}).remainder_bytes == 30


def test_attributions_add_up() -> None:
    whole = Attribution({BUFFERS.identity: 10}, {BUFFERS.identity: 4}, 1, [], 1)
    whole.add(Attribution({BUFFERS.identity: 5, OTHER.identity: 7}, {BUFFERS.identity: 6}, 2, [], 0))
    assert whole.segments == {BUFFERS.identity: 15, OTHER.identity: 7}
    assert whole.huge_bytes == {BUFFERS.identity: 6}, "of one process each, so never summed"
    assert (whole.bytes, whole.scanned, whole.vanished) == (22, 3, 1)
