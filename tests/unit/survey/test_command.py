# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare survey: its table, its JSON, its metrics, and requests that are wrong."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from mshare.cli.program import mshare
from mshare.host import pagemap
from mshare.survey.record import SCHEMA_VERSION
from mshare.units import MIB
from rig.patience import HANG_SECONDS
from rig.survey_parts import map_shared, running, touch

SIZE = 64 * MIB


@pytest.fixture(scope="module", autouse=True)
def processes():
    with running(lambda number: touch(map_shared(-1, SIZE), SIZE), 2) as pids:
        yield pids


def said(*words):
    return CliRunner().invoke(mshare, ["survey", "--threshold", "4KiB", *words])


def test_the_table():
    done = said()
    assert done.exit_code == 0
    lines = done.output.splitlines()
    # The verdict first, then the figures.
    verdicts = ("fine", "at risk", "will run out of memory at its maximum")
    assert any(f": {words}: page tables " in f"{lines[0]} " for words in verdicts)
    assert any(line.startswith("Page tables of ") and "(measured" in line for line in lines)
    assert any(line.startswith("Instance") for line in lines)
    assert any("VmPTE of every process" in line for line in lines)
    assert "\x1b[" not in done.output


def test_a_kernel_that_cannot_be_asked_is_read_and_that_is_said(monkeypatch, processes):
    real = pagemap.Pagemap.__init__
    monkeypatch.setattr(
        pagemap.Pagemap, "__init__", lambda opened, pid, scanning=True: real(opened, pid, scanning=False)
    )
    done = said("--json")
    found = json.loads(done.output)
    assert not found["host"]["pagemap_scan"]
    one = next(one for one in found["instances"] if processes[0] in one["pids"])
    # 32 leaf tables and one above them, as a scan finds them; one more each where it does not begin at 2 MiB.
    assert 33 * 4096 <= one["segments"][0]["page_tables_bytes"] / one["processes"] <= 35 * 4096
    shown = " ".join(said().output.split())
    assert "This kernel has no PAGEMAP_SCAN (Linux 6.7), so pagemap is read entry by entry" in shown


@pytest.mark.parametrize("exact", [False, True])
def test_json(exact, processes):
    done = said("--json", *(["--exact"] if exact else []))
    found = json.loads(done.output)
    assert found["schema_version"] == SCHEMA_VERSION
    assert found["method"]["exact"] == exact
    assert found["method"]["threshold_bytes"] == 4096
    assert any(pid in one["pids"] for pid in processes for one in found["instances"])
    total = sum(one["page_tables"]["sum_bytes"] for one in found["instances"])
    assert total + found["others"]["page_tables_bytes"] > 0


def test_metrics():
    lines = said("--prometheus").output.splitlines()
    assert lines[0].startswith("# HELP mshare_host_memory_bytes")
    assert all(line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0 for line in lines)


def test_metrics_for_the_node_exporter_are_written_for_all_to_read(tmp_path):
    file = tmp_path / "mshare.prom"
    before = os.umask(0o077)
    try:
        assert said("--prometheus", "--output", str(file), "--interval", "60").output == ""
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert "\nmshare_exporter_interval_seconds 60.0\n" in file.read_text()
    assert os.listdir(tmp_path) == [file.name]


def test_what_is_asked_of_a_survey_and_of_its_metrics_is_the_same():
    found = json.loads(said("--json").output)
    assert found["figures"]["host"]["memory_bytes"] == found["host"]["memory_total_bytes"]
    assert found["figures"]["survey"]["instances"] == len(found["instances"])


def test_watching_says_what_changed_until_it_is_interrupted():
    command = [sys.executable, "-m", "mshare", "survey", "--threshold", "4KiB", "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        # Should a line never come, the wait for it ends.
        patience = threading.Timer(HANG_SECONDS, watching.kill)
        patience.start()
        lines = iter(watching.stdout.readline, "")

        def next_survey():
            """The lines of the next survey, to its last one."""
            survey = list(itertools.takewhile(lambda line: not line.startswith("Measured in "), lines))
            assert survey, "the survey ended"
            return survey

        surveys = [next_survey()]
        while True:
            # Two, which nothing but their pids tells apart: then these are in their names.
            with running(lambda number: touch(map_shared(-1, SIZE), SIZE), count=2) as pids:
                surveys += [next_survey(), next_survey()]
            after = [next_survey() for __ in range(3)]
            surveys += after
            # What was read meanwhile may have been printed before: then none of them has seen the process.
            found = [
                line for survey in after for line in survey if f" (process {pids[0]}) is gone (-" in line
            ]
            if found:
                break
        (gone,) = found
        patience.cancel()
        watching.send_signal(signal.SIGINT)
        __, errors = watching.communicate(timeout=HANG_SECONDS)
    # Each but the first says what changed.
    assert [any("Change" in line.split() for line in survey) for survey in surveys] == [
        number > 0 for number in range(len(surveys))
    ]
    assert gone.count(f"(process {pids[0]})") == 1
    assert re.search(r"\(-[0-9.]+ [KM]iB\)$", gone.rstrip())
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--watch", "0"], "--watch 0 is not an interval"),
        (["--threshold", "much"], "threshold 'much' is not a size"),
        (["--prometheus", "--json"], "cannot be combined"),
        (["--output", "/nowhere"], "--output /nowhere was given without --prometheus"),
        (["--interval", "60"], "--interval 60.0 was given without --prometheus"),
    ],
)
def test_wrong_requests(words, reason):
    done = CliRunner().invoke(mshare, ["survey", *words])
    assert done.exit_code == 2
    assert reason in done.output
