# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules on generation 2026-05, whose regions have no file: a play as on any other."""

from __future__ import annotations

from typing import Any

import pytest

from integration.hosts import Host, Run, Task

MIB = 1 << 20


def region(name: str, **fields: Any) -> Task:
    return {"name": name, "dbmem.mshare.mshare_region": {"name": "sga", **fields}, "ignore_errors": True}


def clients(name: str, **fields: Any) -> Task:
    return {"name": name, "dbmem.mshare.mshare_clients": {"region": "sga", **fields}}


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    mount = {"generation": "2026-05"}
    return host.play(
        [
            {"dbmem.mshare.mshare_runtime": {}},
            {"name": "limited", "dbmem.mshare.mshare_mount": mount | {"size": "1GiB"}, "ignore_errors": True},
            {"name": "mount", "dbmem.mshare.mshare_mount": mount},
            region("create", size="64MiB", pattern=True),
            region("create again", size="64MiB", pattern=True),
            region("access", size="64MiB", pattern=True, mode="0640"),
            clients("attach", count=3),
            clients("attach again", count=3),
            region("end under clients", state="absent"),
            {"dbmem.mshare.mshare_info": {}, "name": "now"},
            clients("end clients", state="absent"),
            region("end", state="absent"),
            {"dbmem.mshare.mshare_info": {}, "name": "after the end"},
            {"name": "unmount", "dbmem.mshare.mshare_mount": {"state": "absent"}},
        ]
    ).succeeded()


def test_a_limit_of_a_file_system_is_refused(run: Run) -> None:
    assert run["limited"].failed
    assert "a region of generation 2026-05 has none; omit size" in run["limited"]["msg"]
    assert run["limited"]["changed"] is False


def test_a_region_and_its_clients(run: Run) -> None:
    assert [run[name]["changed"] for name in ("create", "create again")] == [True, False]
    assert [run[name]["changed"] for name in ("attach", "attach again")] == [True, False]
    (facts,) = run["now"]["regions"]
    assert (facts["health"], facts["mapped_bytes"], facts["mode"]) == ("healthy", 64 * MIB, "0640")
    assert facts["clients"]["attached"] == 3


def test_it_is_marked_as_not_posted(run: Run) -> None:
    (mount,) = run["now"]["mounts"]
    assert (mount["generation"], mount["features"]["nameless"]) == ("2026-05", True)
    status = {each["id"]: each["status"] for each in run["now"]["generations"]}
    assert status["2026-05"] == "described, not posted"


def test_who_has_it_mapped_is_known_without_a_file(run: Run) -> None:
    assert run["end under clients"].failed
    assert "attached" in run["end under clients"]["msg"]


def test_nothing_is_left(run: Run) -> None:
    assert run["end"]["changed"]
    assert run["after the end"]["regions"] == []
    assert run["unmount"]["changed"]
