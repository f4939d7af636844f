# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several regions in one call of a module, and in the playbooks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from integration.hosts import Host, Result, Run, Task
from mshare.host import procfs

MIB = 1 << 20
REGION = "dbmem.mshare.mshare_region"


def regions(name: str, /, *entries: dict[str, Any], **fields: Any) -> Task:
    return {
        "name": name,
        REGION: {"regions": list(entries), **fields},
        "ignore_errors": True,
        "diff": True,
    }


def clients(name: str, /, *entries: dict[str, Any], **fields: Any) -> Task:
    return {
        "name": name,
        "dbmem.mshare.mshare_clients": {"clients": list(entries), **fields},
        "ignore_errors": True,
        "diff": True,
    }


def savings(name: str, /, *names: str, **fields: Any) -> Task:
    module = {"regions": list(names), "span": "64MiB", **fields}
    return {"name": name, "dbmem.mshare.mshare_savings": module, "ignore_errors": True}


A, B, C = ({"name": name, "size": "64MiB"} for name in ("a", "b", "c"))
MODE = {"mode": "0640"}
NO_FILE = [{"path": "/no/such/file", "size": "8MiB"}]


def more_than_half() -> str:
    """A size of which this host can fill one and not two."""
    return f"{procfs.meminfo_bytes()['MemAvailable'] * 7 // 10 >> 20}MiB"


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    host.do("truncate", "--size=8MiB", "/run/orders")
    files = [{"path": "/run/orders", "size": "8MiB"}]
    half = {"size": more_than_half(), "prefault": True}
    all_memory = f"{procfs.meminfo_bytes()['MemTotal'] >> 20}MiB"
    forty = {"size": "40MiB", "prefault": True}
    tiny = {"root": "/run/tiny", "backend": "simulated"}
    ab = [{"region": "a", "count": 2}, {"region": "b"}]
    return host.play(
        [
            {"dbmem.mshare.mshare_runtime": {}},
            {"dbmem.mshare.mshare_mount": {"size": all_memory}},
            {"dbmem.mshare.mshare_mount": {**tiny, "size": "64MiB"}},
            regions("last is wrong", A, B, {"name": "c", "size": "300 gigs"}),
            regions("last does not fit", A, {"name": "b", "size": "100TiB"}),
            regions("twice", A, B, A),
            regions("too much in all", {"name": "a"}, {"name": "b"}, **half),
            regions("too much for its tmpfs", {"name": "a"}, {"name": "b"}, **forty, **tiny),
            {"dbmem.mshare.mshare_mount": {**tiny, "state": "absent"}},
            regions("no name", {"size": "64MiB"}),
            {**regions("both forms"), REGION: {"name": "a", "regions": [A]}},
            {"dbmem.mshare.mshare_info": {}, "name": "after refusals"},
            regions("announce", A, B, **MODE) | {"check_mode": True},
            regions("create", A, B, **MODE),
            regions("create again", A, B, **MODE),
            regions("defaults", A, {"name": "b"}, {"name": "files", "mappings": files}, size="64MiB", **MODE),
            regions("one differs", A, C, {**B, "size": "128MiB"}, **MODE),
            regions("half-way", C, {"name": "d", "mappings": NO_FILE}),
            clients("last has no region", {"region": "a"}, {"region": "nosuch"}, count=1),
            clients("no count", {"region": "a"}),
            clients("attach", *ab, count=3),
            clients("attach again", *ab, count=3),
            savings("validate", "a", "b"),
            savings("validate too much", "a", "b", min_saving_percent=99),
            savings("validate without clients", "a", "files"),
            regions("recreate by name", {**A, "size": "32MiB", "recreate": True, "force": True}, B, **MODE),
            regions("end in use", {"name": "a"}, {"name": "b"}, state="absent"),
            clients("detach", {"region": "a"}, {"region": "b"}, state="absent"),
            regions("end", *({"name": name} for name in ("a", "b", "c", "files")), state="absent"),
            {"dbmem.mshare.mshare_info": {}, "name": "in the end"},
        ]
    ).succeeded()


def names(result: Result) -> list[str]:
    return [one["name"] for one in result["regions"]]


REFUSED = {
    "last is wrong": ("invalid_request", "size '300 gigs' is not a size"),
    "last does not fit": (
        "invalid_request",
        r"^region b \(2 of 2\): 100 TiB is more .*; nothing was changed$",
    ),
    "twice": ("invalid_request", "region a is in the list more than once; use one entry per region"),
    "too much in all": (
        "failed",
        "prefaulting regions a, b needs .* of free memory in total, but this host has",
    ),
    "too much for its tmpfs": (
        "failed",
        "prefaulting regions a, b needs 80 MiB in total, but the tmpfs at /run/tiny has .* left;"
        " mount it with a larger size",
    ),
    "no name": (None, "missing required arguments: name found in regions"),
    "both forms": (None, "parameters are mutually exclusive: name|regions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_is_refused_whole(run: Run, name: str) -> None:
    kind, says = REFUSED[name]
    refused = run[name]
    assert (refused.failed, refused.fields.get("error_kind")) == (True, kind)
    assert re.search(says, refused["msg"]), refused["msg"]


def test_what_is_refused_changes_nothing(run: Run) -> None:
    assert run["after refusals"]["regions"] == []


def test_create(run: Run) -> None:
    announced, created = run["announce"], run["create"]
    for key in ("changed", "actions", "diff"):
        assert announced[key] == created[key]
    assert names(created) == ["a", "b"]
    assert [one["region"]["health"] for one in created["regions"]] == ["healthy"] * 2
    assert [one["region"]["mode"] for one in created["regions"]] == ["0640"] * 2
    assert [one["changed"] for one in created["regions"]] == [True, True]
    assert created["actions"] == [action for one in created["regions"] for action in one["actions"]]
    assert created.sides("before") == {"region a": {"state": "absent"}, "region b": {"state": "absent"}}
    assert created.sides("after")["region b"]["size"] == 64 * MIB


def test_create_again(run: Run) -> None:
    again = run["create again"]
    assert (again["changed"], again["actions"]) == (False, [])
    assert again.sides("before") == again.sides("after")


def test_an_entry_takes_what_it_leaves_out_from_the_module(run: Run) -> None:
    by_name = {one["name"]: one for one in run["defaults"].fields["regions"]}
    assert {name: one["changed"] for name, one in by_name.items()} == {"a": False, "b": False, "files": True}
    # Either a size or mappings: an entry with mappings does not take the size.
    assert by_name["files"]["region"]["mapped_bytes"] == 8 * MIB


def test_a_conflict_in_the_last_leaves_the_others_alone(run: Run) -> None:
    refused = run["one differs"]
    assert refused["error_kind"] == "conflict"
    assert re.search(r"^region b \(3 of 3\): region b exists .*; nothing was changed$", refused["msg"])
    assert refused["regions"] == []


def test_a_failure_says_what_was_done_before_it(run: Run) -> None:
    failed = run["half-way"]
    says = r"^region d \(2 of 2\): /no/such/file: .*; done before that: create region c of 64 MiB at"
    assert re.search(says, failed["msg"])
    assert failed["changed"] is True
    assert names(failed) == ["c"]
    assert failed.sides("after")["region c"]["state"] == "present"


def test_clients_of_a_region_that_is_not_there(run: Run) -> None:
    refused = run["last has no region"]
    says = r"^region nosuch \(2 of 2\): region nosuch at .* has no running owner.*; nothing was changed$"
    assert re.search(says, refused["msg"])


def test_clients_without_a_count(run: Run) -> None:
    assert "clients of region a need a count, like 100" in run["no count"]["msg"]


def test_attach(run: Run) -> None:
    attached = run["attach"]["regions"]
    assert {one["region"]: one["clients"]["attached"] for one in attached} == {"a": 2, "b": 3}
    assert (run["attach again"]["changed"], run["attach again"]["actions"]) == (False, [])


def test_validate(run: Run) -> None:
    found = run["validate"]
    assert found["passed"] is True
    assert [(one["region"], one["clients"]["attached"]) for one in found["regions"]] == [("a", 2), ("b", 3)]
    assert [line for line in found["summary"] if line.startswith("Region ")]


def test_validate_too_much(run: Run) -> None:
    missed = run["validate too much"]
    assert missed["error_kind"] == "verdict_failed"
    assert missed["msg"].startswith("the validation of region a, b failed: region a: ")
    assert len(missed["reasons"]) == 2


def test_validate_without_clients(run: Run) -> None:
    assert run["validate without clients"]["msg"].startswith("region files: no clients of region files at ")


def test_consent_is_by_name(run: Run) -> None:
    recreated = run["recreate by name"]
    assert [one["changed"] for one in recreated["regions"]] == [True, False]
    assert recreated["regions"][1]["region"]["clients"]["attached"] == 3


def test_end(run: Run) -> None:
    assert re.search(r"^region b \(2 of 2\): .*; nothing was changed$", run["end in use"]["msg"])
    assert [one["changed"] for one in run["end"]["regions"]] == [True] * 4
    assert run["in the end"]["regions"] == []


# -- the same, in the playbooks

MANY = {
    "mshare_region_list": [
        {"name": "sales", "size": "64MiB"},
        {"name": "ledger", "size": "32MiB", "mode": "0600"},
    ],
    "mshare_clients_count": 2,
}


@pytest.fixture(scope="module")
def story(host: Host, run: Run) -> dict[str, Run]:
    steps = ("deploy", "deploy", "validate", "teardown", "teardown")
    runs: dict[str, Run] = {"check": host.playbook("dbmem.mshare.deploy", "--check", variables=MANY)}
    for step in steps:
        name = f"{step} again" if step in runs else step
        runs[name] = host.playbook(f"dbmem.mshare.{step}", variables=MANY).succeeded()
    return runs


def test_playbook_deploys_each(story: dict[str, Run]) -> None:
    deployed = story["deploy"]
    made = {one["name"]: one["region"] for one in deployed["Create the region"]["regions"]}
    assert {name: one["mode"] for name, one in made.items()} == {"sales": "0660", "ledger": "0600"}
    attached = deployed["Attach the clients"]["regions"]
    assert {one["region"]: one["clients"]["attached"] for one in attached} == {"sales": 2, "ledger": 2}


@pytest.mark.parametrize("step", ["deploy again", "validate", "teardown again"])
def test_playbook_changes_nothing(story: dict[str, Run], step: str) -> None:
    assert story[step].recap["changed"] == 0


def test_playbook_validates_each(story: dict[str, Run]) -> None:
    assert [one["region"] for one in story["validate"]["Measure"]["regions"]] == ["sales", "ledger"]


def test_playbook_ends_each(host: Host, story: dict[str, Run]) -> None:
    assert len(story["teardown"]["Remove the region"]["regions"]) == 2
    assert host.processes() == {}
    assert not host.inside("/etc/mshare").exists()
