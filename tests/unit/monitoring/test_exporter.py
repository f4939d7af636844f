# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys for Prometheus, once and again and again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from types import SimpleNamespace

import pytest

from mshare.monitoring import exporter
from mshare.survey import survey as surveying
from mshare.survey.survey import Series
from rig.patience import HANG_SECONDS
from rig.world import LIBRARY


class Enough(Exception):
    """Ends a loop that has no end."""


def number_of(content: str, name: str) -> float:
    (line,) = (line for line in content.splitlines() if line.startswith(f"{name} "))
    return float(line[len(name) :])


def interval_of(content: str) -> float:
    return number_of(content, "mshare_exporter_interval_seconds")


@pytest.mark.parametrize(("interval", "seconds"), [(None, 0.0), (60.0, 60.0)])
def test_once(interval, seconds):
    written = []
    with Series() as series:
        exporter.run(series, written.append, interval=interval)
    (content,) = written
    assert interval_of(content) == seconds


def test_again_and_again_and_systemd_is_told(tmp_path, monkeypatch):
    address, written = str(tmp_path / "notify"), []
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    def write(content):
        written.append(content)
        if len(written) == 3:
            raise Enough

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, Series() as series:
        listener.bind(address)
        listener.settimeout(HANG_SECONDS)
        with pytest.raises(Enough):
            exporter.run(series, write, 0.01)
        assert [listener.recv(100) for __ in range(2)] == [b"READY=1\nWATCHDOG=1"] * 2
    assert [interval_of(content) for content in written] == [0.01] * 3


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_changes_no_interval(hours, monkeypatch):
    """Alerts go by the host's own clock, so the figures have the time that it shows."""
    clock, monotonic, slept, written = [1_000_000.0], [50.0], [], []

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(clock[0], tz)

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds + hours * 3600
        monotonic[0] += seconds
        if len(slept) == 2:
            raise Enough

    times = SimpleNamespace(sleep=sleep, monotonic=lambda: monotonic[0], process_time=time.process_time)
    monkeypatch.setattr(exporter, "time", times)
    monkeypatch.setattr(surveying, "datetime", Clock)
    with Series() as series, pytest.raises(Enough):
        exporter.run(series, written.append, 15)
    assert slept == [15, 15]
    begun = [number_of(content, "mshare_survey_timestamp_seconds") for content in written]
    assert [later - begun[0] for later in begun] == [0, 15 + hours * 3600]


# What is there before: a file of metrics, and a disk that is full but for less than the next one.
FULL = """
import os, sys
from pathlib import Path
place = Path(sys.argv[1], "mshare.prom")
place.write_text("before")
with open(place.parent / "rest", "wb", buffering=0) as rest:
    try:
        while rest.write(bytes(4096)):
            pass
    except OSError:
        pass
os.execvp(sys.executable, [sys.executable, "-m", "mshare", "survey", "--prometheus", "--output", str(place)])
"""
MOUNTED = """
mount -t tmpfs -o size=64k full "$1" && shift && "$@"
code=$?
cat "$0"
ls -A "${0%/*}"
exit $code
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_on_a_full_disk_the_last_file_stays_and_one_sentence_says_why(tmp_path):
    file = f"{tmp_path}/mshare.prom"
    run = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MOUNTED, file, str(tmp_path), *run],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == "beforemshare.prom\nrest\n"
    (sentence,) = done.stderr.splitlines()
    assert "No space left on device" in sentence
    assert file in sentence


def test_two_at_once_both_write_a_whole_file(tmp_path):
    path = str(tmp_path / "mshare.prom")
    words = [sys.executable, "-m", "mshare", "survey", "--prometheus", "--output", path]
    both = [subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(LIBRARY)}) for __ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    content = (tmp_path / "mshare.prom").read_text()
    assert number_of(content, "mshare_exporter_interval_seconds") == 0
    assert os.listdir(tmp_path) == ["mshare.prom"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, seen, over = tmp_path / "mshare.prom", set(), threading.Event()
    contents = [letter * 100_000 + "\n" for letter in "ab"]
    exporter.replace(str(path), contents[0])

    def read():
        while not over.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        exporter.replace(str(path), contents[number % 2])
    over.set()
    reader.join()
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == [path.name]
