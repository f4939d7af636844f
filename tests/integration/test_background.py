# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks in the background (async), as somebody who prefaults for minutes has them."""

from __future__ import annotations

from typing import Any

import pytest

from integration.hosts import Host, Run, Task


def background(module: str, /, **fields: Any) -> Task:
    return {"name": module, f"dbmem.mshare.mshare_{module}": fields, "async": 120, "poll": 1}


TASKS = [
    background("runtime"),
    background("mount"),
    background("region", name="sga", size="64MiB", prefault=True),
    background("clients", region="sga", count=2),
    background("savings", region="sga", span="64MiB"),
]


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    return host.play(TASKS).succeeded()


@pytest.mark.parametrize("module", ["runtime", "mount", "region", "clients"])
def test_is_done(run: Run, module: str) -> None:
    assert run[module]["changed"] is True
    assert run[module]["actions"]


def test_results_are_complete(run: Run) -> None:
    assert run["region"]["region"]["health"] == "healthy"
    assert run["clients"]["clients"]["attached"] == 2
    assert run["savings"]["passed"] is True


def test_nothing_is_left_to_do(run: Run, host: Host) -> None:
    again = host.play(TASKS).succeeded()
    assert [again[task["name"]]["changed"] for task in TASKS] == [False] * len(TASKS)
