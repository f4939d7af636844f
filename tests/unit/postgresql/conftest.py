# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several files of tests about PostgreSQL need."""

from __future__ import annotations

import pytest

from mshare.postgresql import files
from mshare.postgresql.managers import pg_ctlcluster


@pytest.fixture
def etc(tmp_path, monkeypatch):
    monkeypatch.setattr(pg_ctlcluster, "CONFIGURATION", str(tmp_path / "etc"))
    monkeypatch.setattr(files, "COMMON", str(tmp_path / "common"))
    monkeypatch.setattr(files.paths, "config_dir", lambda: str(tmp_path / "mshare"))
    monkeypatch.setattr(files.systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    return tmp_path / "etc"
