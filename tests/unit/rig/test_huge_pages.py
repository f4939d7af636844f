# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that a killed test had reserved are given back by the next one. With a pool made of files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rig import huge_pages
from rig.apart import die_with


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, count in (("nr", 3), ("free", 100), ("resv", 0)):
        (tmp_path / f"{name}_hugepages").write_text(str(count))
    monkeypatch.setattr(huge_pages, "_POOL", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "nr_hugepages"


def killed_while_it_has(count: int) -> None:
    parent = os.getpid()
    if (child := os.fork()) == 0:
        die_with(parent)
        with huge_pages.reserved(count):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_they_are_given_back_at_the_end(pool: Path) -> None:
    with huge_pages.reserved(8):
        assert pool.read_text() == "11"
    assert pool.read_text() == "3"


def test_who_has_the_turn_already_does_not_wait_for_it(pool: Path) -> None:
    with huge_pages.reserved(8), huge_pages.turn():
        assert pool.read_text() == "11"
    with huge_pages.turn():
        assert pool.read_text() == "3"


def test_the_next_one_gives_back_what_a_killed_one_had(pool: Path) -> None:
    killed_while_it_has(8)
    assert pool.read_text() == "11"
    with huge_pages.reserved(2):
        assert pool.read_text() == "5"
    assert pool.read_text() == "3"


def test_a_pool_that_somebody_changed_since_is_his(pool: Path) -> None:
    killed_while_it_has(8)
    pool.write_text("20")
    with huge_pages.reserved(2):
        assert pool.read_text() == "22"
    assert pool.read_text() == "20"
