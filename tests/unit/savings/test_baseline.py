# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.errors import InvalidRequest, MshareError
from mshare.pagetable import page_tables
from mshare.savings import baseline
from mshare.units import GIB, KIB, MIB, TIB
from rig.patience import HANG_SECONDS


def run(script, before=None):
    """A program of its own: limits, signals and exit handlers must not be those of the tests."""
    head = f"import sys; sys.path[:] = {sys.path!r}\nfrom mshare.savings import baseline\n"
    return subprocess.run(
        [sys.executable, "-c", head + script],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
        preexec_fn=before,
    )


def children():
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read().split()


@pytest.fixture(autouse=True)
def brothers():
    """The children there were before a test; afterwards there are no others."""
    before = children()
    yield before
    assert children() == before


class TestMeasure:
    @pytest.mark.parametrize(
        ("span_bytes", "stride_bytes"),
        [
            (4 * KIB, 2 * MIB),
            (2 * MIB, 2 * MIB),
            (2 * MIB + 4 * KIB, 2 * MIB),
            (64 * MIB, 4 * KIB),
            (64 * MIB, 12 * KIB),
            (4 * GIB, 2 * MIB),
            (16 * GIB + 12 * KIB, 2 * MIB),
        ],
    )
    def test_each_process_is_at_most_the_edges_from_the_model(self, span_bytes, stride_bytes):
        found = baseline.measure(span_bytes, stride_bytes, processes=3)
        assert (found.span_bytes, found.stride_bytes) == (span_bytes, stride_bytes)
        assert len(found.processes) == 3
        for one in found.processes:
            assert one.modelled_bytes == page_tables(span_bytes, start=one.address).total_bytes
            assert abs(one.difference_bytes) <= baseline.EDGE_BYTES

    def test_a_figure_is_made_of_its_readings(self):
        one = baseline.ProcessTables(4096, 100 * KIB, 316 * KIB, 200 * KIB)
        other = baseline.ProcessTables(8192, 100 * KIB, 298 * KIB, 200 * KIB)
        found = baseline.Baseline(100 * MIB, 2 * MIB, (other, one))
        assert (one.measured_bytes, one.difference_bytes) == (216 * KIB, 16 * KIB)
        assert one.error_percent == 8.0
        assert found.worst is one
        assert found.measured_bytes == 207 * KIB
        fields = json.loads(json.dumps(found.to_dict()))
        assert fields["measured_bytes"] == 207 * KIB
        assert [each["difference_bytes"] for each in fields["processes"]] == [-2 * KIB, 16 * KIB]

    @pytest.mark.parametrize(
        ("request_", "said"),
        [
            ((0,), "at least a page"),
            ((-2 * MIB,), "at least a page"),
            ((GIB, 0), "multiple of 4 KiB and at most 2 MiB"),
            ((GIB, 4 * MIB), "multiple of 4 KiB and at most 2 MiB"),
            ((GIB, 5000), "multiple of 4 KiB and at most 2 MiB"),
            ((GIB, 2 * MIB, 0), "1 to 64 processes, not 0"),
            ((GIB, 2 * MIB, 65), "1 to 64 processes, not 65"),
        ],
    )
    def test_a_senseless_request_is_refused(self, request_, said):
        with pytest.raises(InvalidRequest, match=said):
            baseline.measure(*request_)

    def test_what_no_host_holds_is_refused_before_anything_is_forked(self):
        with pytest.raises(MshareError, match=r"needs 15\.\d TiB .*ask for a span of at most"):
            baseline.measure(120 * TIB, processes=64)


class TestMemory:
    @pytest.mark.parametrize(
        ("span_bytes", "available_bytes", "said"),
        [
            (300 * GIB, 4 * GIB, None),
            (300 * GIB, 1800 * MIB * 100 // 90, "1.8 GiB (1.2 GiB of page tables and 600 MiB of"),
            (300 * GIB, GIB, "at most 153 GiB"),
            (64 * MIB, 0, "available on this host it may use 90 %; free some memory"),
        ],
    )
    def test_a_baseline_leaves_a_tenth_of_the_memory(self, span_bytes, available_bytes, said):
        if said is None:
            baseline.check_memory(span_bytes, 2 * MIB, 2, available_bytes)
        else:
            with pytest.raises(MshareError, match=re.escape(said)):
                baseline.check_memory(span_bytes, 2 * MIB, 2, available_bytes)

    @given(
        memory_bytes=st.integers(0, 2 * TIB),
        stride_bytes=st.integers(1, 512).map(lambda pages: pages * 4 * KIB),
        processes=st.integers(1, 64),
    )
    def test_the_largest_span_fits_and_the_next_one_does_not(self, memory_bytes, stride_bytes, processes):
        span_bytes = baseline.largest_span(memory_bytes, stride_bytes, processes)
        assert span_bytes % (2 * MIB) == 0
        if span_bytes:
            assert baseline.needed_bytes(span_bytes, stride_bytes, processes) <= memory_bytes
        following = span_bytes + 2 * MIB
        assert baseline.needed_bytes(following, stride_bytes, processes) > memory_bytes


class TestForked:
    """What a process of the probe does when it goes wrong."""

    def test_reports_come_back_from_processes_of_their_own(self):
        pids = [one["pid"] for one in baseline.forked(lambda: {"pid": os.getpid()}, 3)]
        assert len({*pids, os.getpid()}) == 4

    @pytest.mark.parametrize(
        ("work", "said"),
        [
            (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL; .* OOM killer"),
            (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
            (lambda: os._exit(7), "ended with code 7 and no report"),
            (lambda: os.stat("/nowhere/at all"), "failed: /nowhere/at all: No such file .*ENOENT"),
            ([].pop, "ended with code 1 and no report"),
        ],
    )
    def test_a_failing_process_is_a_sentence(self, work, said):
        with pytest.raises(MshareError, match=rf"process \d+ of the baseline {said}"):
            baseline.forked(work, 2)

    def test_nobody_is_waited_for_after_the_first_failure(self, brothers):
        parent = os.getpid()

        def first_fails_others_hang():
            with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
                ours = [pid for pid in file.read().split() if pid not in brothers]
            if ours[0] != str(os.getpid()):
                time.sleep(600)
            os._exit(3)

        with pytest.raises(MshareError, match="code 3"):
            baseline.forked(first_fails_others_hang, 3)

    def test_nothing_of_the_parent_runs_in_a_process_of_the_probe(self):
        done = run(
            "import atexit, signal\n"
            "atexit.register(print, 'goodbye')\n"
            "signal.signal(signal.SIGTERM, lambda *_: print('handler'))\n"
            "print('unflushed ', end='')\n"
            "baseline.measure(64 << 20)\n"
        )
        assert (done.stdout, done.stderr, done.returncode) == ("unflushed goodbye\n", "", 0)

    def test_ignored_sigchld_is_no_obstacle(self):
        done = run(
            "print(len(baseline.measure(64 << 20).processes))",
            before=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        )
        assert (done.stdout, done.returncode) == ("2\n", 0)

    def test_too_small_an_address_space_is_said(self):
        done = run(
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
            "try: baseline.measure(8 << 30)\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        assert re.search(r"MshareError process \d+ .*ENOMEM.*RLIMIT_AS", done.stdout), done


def test_it_runs_with_the_standard_library_alone():
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _BARE, str(Path(baseline.__file__).parents[2])],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


_BARE = """
import sys
sys.path.append(sys.argv[1])
import mshare.savings.assess
from mshare.savings import baseline
found = baseline.measure(1 << 30)
print(abs(found.worst.difference_bytes) <= baseline.EDGE_BYTES)
"""
