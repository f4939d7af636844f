# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several files of tests about PostgreSQL need."""

from __future__ import annotations

import os

import psutil
import pytest

from mshare.postgresql import files
from mshare.postgresql.managers import patroni, pg_ctlcluster


@pytest.fixture(autouse=True)
def only_our_own_patroni(monkeypatch):
    """Tests that run beside this one have stand-ins of Patroni, which are none of its business."""
    every = patroni.processes

    def own() -> list[int]:
        children = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
        return [pid for pid in every() if pid in children]

    monkeypatch.setattr(patroni, "processes", own)


@pytest.fixture
def etc(tmp_path, monkeypatch):
    monkeypatch.setattr(pg_ctlcluster, "CONFIGURATION", str(tmp_path / "etc"))
    monkeypatch.setattr(files, "COMMON", str(tmp_path / "common"))
    monkeypatch.setattr(files.paths, "config_dir", lambda: str(tmp_path / "mshare"))
    monkeypatch.setattr(files.systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    return tmp_path / "etc"
