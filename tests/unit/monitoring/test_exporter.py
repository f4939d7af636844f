# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys for Prometheus, once and again and again."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from mshare.monitoring import exporter
from mshare.survey.survey import Series
from rig.patience import HANG_SECONDS


class Enough(Exception):
    """Ends a loop that has no end."""


def interval_of(content: str) -> float:
    name = "mshare_exporter_interval_seconds "
    return next(float(line[len(name) :]) for line in content.splitlines() if line.startswith(name))


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
