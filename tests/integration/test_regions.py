# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A region that exists already, with another size, with clients, in several mappings."""

from __future__ import annotations

import re
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
    host.do("mkdir", "/run/files")
    host.do("truncate", "--size=8MiB", "/run/files/orders", "/run/files/customers")
    files = [{"path": f"/run/files/{name}", "size": "8MiB"} for name in ("orders", "customers")]
    return host.play(
        [
            {"dbmem.mshare.mshare_runtime": {}},
            {"dbmem.mshare.mshare_mount": {}},
            region("create", size="64MiB"),
            region("announce another size", size="128MiB") | {"check_mode": True},
            region("another size", size="128MiB"),
            region("announce recreating", size="128MiB", recreate=True) | {"check_mode": True},
            region("recreate", size="128MiB", recreate=True),
            region("recreate again", size="128MiB", recreate=True),
            clients("attach", count=2),
            region("recreate under clients", size="64MiB", recreate=True),
            region("end under clients", state="absent"),
            {"dbmem.mshare.mshare_info": {}, "name": "after refusals"},
            region("recreate by force", size="64MiB", recreate=True, force=True),
            clients("attach again", count=2),
            region("end by force", state="absent", force=True),
            {"dbmem.mshare.mshare_info": {}, "name": "after the end"},
            clients("clients that are gone", state="absent"),
            region("files", mappings=files, window="1TiB"),
            region("files again", mappings=files, window="1TiB"),
            clients("attach to files", count=2),
            region("end files", state="absent", force=True),
        ]
    ).succeeded()


@pytest.mark.parametrize("name", ["another size", "announce another size"])
def test_another_size_is_refused(run: Run, name: str) -> None:
    refused = run[name]
    assert (refused.failed, refused["error_kind"]) == (True, "conflict")
    assert re.search(r"exists with 64 MiB .* size should differ \(128 MiB requested\)", refused["msg"])
    assert "recreate: true" in refused["msg"]


def test_recreate(run: Run) -> None:
    assert run["announce recreating"]["actions"] == run["recreate"]["actions"]
    recreated = run["recreate"]
    assert recreated["region"]["mapped_bytes"] == 128 * MIB
    assert recreated["region"]["owner"]["pid"] != run["create"]["region"]["owner"]["pid"]
    assert run["recreate again"]["changed"] is False


@pytest.mark.parametrize("name", ["recreate under clients", "end under clients"])
def test_attached_clients_are_in_the_way(run: Run, name: str) -> None:
    refused = run[name]
    assert (refused.failed, refused["error_kind"]) == (True, "conflict")
    one = r"\d+ mshare-client \d+ sga \(user root\b.*\)"
    assert re.search(rf"would kill 2 attached clients: {one}, {one}; stop them first", refused["msg"])


def test_a_refusal_changes_nothing(run: Run) -> None:
    (found,) = run["after refusals"]["regions"]
    assert (found["health"], found["mapped_bytes"]) == ("healthy", 128 * MIB)
    assert found["owner"]["pid"] == run["recreate"]["region"]["owner"]["pid"]
    assert found["clients"]["attached"] == 2


def test_force(run: Run) -> None:
    assert run["recreate by force"]["region"]["mapped_bytes"] == 64 * MIB
    assert run["attach again"]["clients"]["attached"] == 2
    assert run["end by force"]["changed"] is True
    assert run["after the end"]["regions"] == []
    assert run["after the end"]["mounted"] is True


def test_files_in_one_region(run: Run) -> None:
    found = run["files"]["region"]
    assert found["window_bytes"] == 1 << 40
    assert [(one["path"], one["offset"], one["protection"]) for one in found["mappings"]] == [
        ("/run/files/orders", 0, "r"),
        ("/run/files/customers", 8 * MIB, "r"),
    ]
    assert run["files again"]["changed"] is False
    assert run["attach to files"]["clients"]["attached"] == 2


def test_forced_end_leaves_no_clients_to_end(run: Run) -> None:
    assert run["clients that are gone"]["changed"] is False
