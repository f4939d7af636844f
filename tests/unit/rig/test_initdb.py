# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data directories: one initdb for all of a kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import initdb, postgresql

pytestmark = pytest.mark.skipif(postgresql.missing() is not None, reason=str(postgresql.missing()))


def test_a_kind_is_made_once_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What servers are started with is none of initdb's.
    monkeypatch.setenv("LD_PRELOAD", "/no/such/library.so")
    programs = max(postgresql.PROGRAMS.glob("*/bin"))
    made = []
    real = initdb._make
    monkeypatch.setattr(initdb, "_make", lambda folder, *how: made.append(folder) or real(folder, *how))
    for name, auth in (("a", "--auth=trust"), ("b", "--auth=trust"), ("c", "--auth=peer")):
        initdb.data_directory(tmp_path / name, programs, auth)
    assert len(made) == len(set(made)) == 2
    (tmp_path / "a" / "PG_VERSION").unlink()
    assert (tmp_path / "b" / "PG_VERSION").exists()
    assert " trust\n" in (tmp_path / "b" / "pg_hba.conf").read_text()
    assert " peer\n" in (tmp_path / "c" / "pg_hba.conf").read_text()
    assert (tmp_path / "b").owner() == (tmp_path / "c").owner() == made[0].owner()
