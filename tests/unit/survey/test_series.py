# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys one after the other: each is as good as one made anew, and reads again only of who has run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import sys
from dataclasses import replace

import pytest

from mshare.host import pagemap, processes, segments
from mshare.survey.survey import Series, survey
from mshare.units import KIB, MIB
from rig import apart
from rig.faults import open_files
from rig.patience import eventually
from rig.survey_parts import LIBC, map_shared, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
SIZE = 16 * MIB
THRESHOLD_BYTES = 1


class Worker:
    """A process that does what it is told, one step at a time, and sleeps in between."""

    def __init__(self, segment):
        (self._orders, orders), (answers, self._answers) = os.pipe(), os.pipe()
        self.pid = apart.fork()
        if self.pid == 0:
            self._obey(segment)
        os.close(self._orders)
        os.close(self._answers)
        self._orders, self._answers = orders, answers
        self._wait()

    def _obey(self, segment):
        own = {}
        try:
            os.write(self._answers, b".")
            while True:
                order = os.read(self._orders, 1)
                if order == b"t":
                    touch(segment, SIZE)
                elif order == b"m":
                    own[len(own)] = map_shared(-1, 4 * MIB)
                    touch(own[len(own) - 1], 4 * MIB)
                elif order == b"u" and own:
                    LIBC.munmap(ctypes.c_void_p(own.popitem()[1]), ctypes.c_size_t(4 * MIB))
                elif order == b"s":
                    # As much as before, and another segment.
                    LIBC.munmap(ctypes.c_void_p(own.popitem()[1]), ctypes.c_size_t(4 * MIB))
                    own[len(own)] = map_shared(-1, 4 * MIB)
                    touch(own[len(own) - 1], 4 * MIB)
                elif order == b"x":
                    words = f"import os; os.write({self._answers}, b'.'); os.read({self._orders}, 1)"
                    os.set_inheritable(self._answers, True)
                    os.set_inheritable(self._orders, True)
                    os.execv(sys.executable, [sys.executable, "-S", "-c", words])
                os.write(self._answers, b".")
        finally:
            os._exit(1)

    def _wait(self):
        assert os.read(self._answers, 1) == b"."

    def order(self, letter):
        os.write(self._orders, letter.encode())
        self._wait()

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._orders)
        os.close(self._answers)


@pytest.fixture
def workers():
    segment = map_shared(-1, SIZE)
    touch(segment, SIZE)
    present = [Worker(segment) for __ in range(5)]
    # This process runs on between two surveys, and must not be one of those that are compared.
    LIBC.munmap(ctypes.c_void_p(segment), ctypes.c_size_t(SIZE))
    yield present
    for worker in present:
        worker.end()


def of(surveyed, pids):
    """What a survey has of these processes, without what depends on others: a name, and the share of all."""
    return {
        pid: replace(instance, name="", share_of_host_percent=0.0)
        for instance in surveyed.instances
        for pid in instance.pids
        if pid in pids
    }


@pytest.mark.parametrize("seed", range(4))
def test_each_has_the_figures_of_one_made_anew(workers, seed):
    chance = random.Random(seed)
    pids = {worker.pid for worker in workers}
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        for __ in range(8):
            assert of(series.survey(), pids) == of(survey(threshold_bytes=THRESHOLD_BYTES), pids)
            for worker in chance.sample(workers, 2):
                worker.order(chance.choice("tmu"))


@pytest.fixture
def reads(monkeypatch):
    """The processes of which mappings and pagemap are read."""
    seen = []
    real_shared, real_pagemap = segments.Reader.shared, pagemap.Pagemap.__init__

    def shared(reader, process):
        seen.append(("maps", process.pid))
        return real_shared(reader, process)

    def opened(scanned, pid, *more):
        seen.append(("pagemap", pid))
        real_pagemap(scanned, pid, *more)

    monkeypatch.setattr(segments.Reader, "shared", shared)
    monkeypatch.setattr(pagemap.Pagemap, "__init__", opened)
    return seen


def read_again(series, reads):
    """The processes that one more survey reads."""
    reads.clear()
    series.survey()
    return {pid for __, pid in reads}


def test_who_has_not_run_is_not_read_again(workers, reads):
    pids = {worker.pid for worker in workers}
    for worker in workers:
        worker.order("t")
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        first = series.survey()
        assert {pid for what, pid in reads if what == "maps"} >= pids
        scanned = {pid for what, pid in reads if what == "pagemap"} & pids
        # A worker that has answered runs a little longer on a busy machine, until it waits again.
        eventually(lambda: not read_again(series, reads) & pids)
        assert of(first, pids) == of(series.survey(), pids)
        workers[2].order("m")
        reads.clear()
        third = series.survey()
        assert {pid for what, pid in reads if what == "maps"} & pids == {workers[2].pid}
        # Samples of those that are left in its group may be of others than before.
        assert not {pid for what, pid in reads if what == "pagemap"} & scanned - {workers[2].pid}
    own = [segment.size_bytes for segment in of(third, pids)[workers[2].pid].segments]
    assert own == [SIZE, 4 * MIB]


def test_a_segment_in_the_place_of_another_of_its_size_is_noticed(workers, reads):
    (pid, *_others) = (worker.pid for worker in workers)
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        workers[0].order("m")
        before, old = of(series.survey(), {pid})[pid], mapped(pid)
        workers[0].order("s")
        new = mapped(pid)
        reads.clear()
        after = of(series.survey(), {pid})[pid]
    assert old != new
    assert ("maps", pid) in reads
    assert [segment.size_bytes for segment in after.segments] == [SIZE, 4 * MIB]
    assert before.page_tables == after.page_tables


def mapped(pid):
    process = next(one for one in processes.read_all().processes if one.pid == pid)
    return [mapping.identity for mapping in segments.Reader().shared(process)]


def test_a_program_started_in_a_process_is_noticed(workers):
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        assert workers[1].pid in of(series.survey(), {workers[1].pid})
        workers[1].order("x")
        assert of(series.survey(), {workers[1].pid}) == {}
        assert len(of(series.survey(), {worker.pid for worker in workers})) == 4


def test_who_ends_is_gone_and_who_comes_is_there(workers):
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        series.survey()
        os.kill(workers[0].pid, signal.SIGKILL)
        os.waitpid(workers[0].pid, 0)
        assert workers[0].pid not in of(series.survey(), {workers[0].pid})


STATUS = (
    b"Name:\tpostgres\nState:\tS (sleeping)\nPPid:\t1\nVmPTE:\t     100 kB\nThreads:\t1\nSigQ:\t3/96365\n"
    b"voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t1\n"
)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (b"", b"", True),
        # Signals are queued for others of its user.
        (b"SigQ:\t3/", b"SigQ:\t4/", True),
        (b"switches:\t7", b"switches:\t8", False),
        (b"VmPTE:\t     100", b"VmPTE:\t      96", False),
        (b"Name:\tpostgres", b"Name:\tpostmast", False),
        (b"State:\tS (sleeping)", b"State:\tD (sleeping)", False),
    ],
)
def test_what_says_that_a_process_has_not_run(old, new, same):
    assert processes.has_not_run(STATUS, STATUS.replace(old, new) if old else STATUS) == same


@pytest.mark.parametrize(
    ("old", "new"),
    # It may run now, uncounted; and only the first thread's turns are counted.
    [(b"State:\tS (sleeping)", b"State:\tR (running)"), (b"Threads:\t1", b"Threads:\t2")],
)
def test_what_never_says_so(old, new):
    status = STATUS.replace(old, new)
    assert processes.rests(STATUS)
    assert not processes.rests(status)


def test_open_files_are_as_many_as_the_limit_allows_and_closed_at_the_end(workers, monkeypatch):
    before = len(open_files())
    monkeypatch.setattr(processes.resource, "getrlimit", lambda which: (256 + 3, 256 + 3))
    with Series(threshold_bytes=THRESHOLD_BYTES) as series:
        for __ in range(2):
            pids = {worker.pid for worker in workers}
            assert set(of(series.survey(), pids)) == pids
            assert len(open_files()) == before + 3
    assert len(open_files()) == before


def test_a_brother_with_a_segment_of_the_same_size_is_told_apart():
    """Both have as much mapped as the other, at the same address, and not the same."""
    pids = []
    try:
        for __ in range(2):
            ready, tell = os.pipe()
            pid = apart.fork()
            if pid == 0:
                try:
                    touch(map_shared(-1, SIZE, address=32 << 40), SIZE)
                    os.write(tell, b".")
                    signal.pause()
                finally:
                    os._exit(1)
            pids.append(pid)
            assert os.read(ready, 1) == b"."
            os.close(ready)
            os.close(tell)
        found = of(survey(threshold_bytes=64 * KIB), set(pids))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert sorted(instance.pids for instance in found.values()) == [(pid,) for pid in sorted(pids)]
