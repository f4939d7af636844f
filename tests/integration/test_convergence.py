# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each change by each module: announced in check mode, done, and not done twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from integration.hosts import Host, Run, Task


@dataclass(frozen=True)
class Change:
    """A task, and what it is expected to say."""

    module: str
    fields: dict[str, Any]
    actions: list[str]
    before: dict[str, Any] = field(default_factory=dict)
    """Some of the fields of the diff's sides."""
    after: dict[str, Any] = field(default_factory=dict)

    def task(self, name: str, **keys: Any) -> Task:
        return {"name": name, f"dbmem.mshare.mshare_{self.module}": self.fields, "diff": True, **keys}


REGION = {"name": "sga", "size": "64MiB"}
ABSENT = {"state": "absent"}
PRESENT = {"state": "present"}
REGION_SPEC, CLIENTS_SPEC = "/etc/mshare/regions/sga.json", "/etc/mshare/clients/sga.json"
MOUNT_SPEC = "/etc/mshare/mounts/run-msharefs.json"

# In the order in which they happen.
CHANGES = {
    "install": Change(
        "runtime",
        {},
        ["install version 0.1.0 of the library into /usr/local/lib/mshare"],
        ABSENT,
        {**PRESENT, "version": "0.1.0"},
    ),
    "mount": Change(
        "mount",
        {"mode": "1777"},
        [
            "mount the simulated msharefs at /run/msharefs",
            "lay out the simulated msharefs at /run/msharefs",
            "set mode and group of /run/msharefs",
            f"write {MOUNT_SPEC}",
        ],
        ABSENT,
        {**PRESENT, "mode": "1777"},
    ),
    "tighten": Change(
        "mount",
        {"group": "daemon"},
        ["set mode and group of /run/msharefs", f"write {MOUNT_SPEC}"],
        {**PRESENT, "mode": "1777"},
        {**PRESENT, "mode": "1770"},
    ),
    "limit": Change(
        "mount",
        {"group": "daemon", "size": "64MiB"},
        ["give the tmpfs at /run/msharefs room for 64 MiB", f"write {MOUNT_SPEC}"],
        {**PRESENT, "mode": "1770"},
        {**PRESENT, "mode": "1770", "size": 64 << 20},
    ),
    "make room": Change(
        "mount",
        {"group": "daemon", "size": "256MiB"},
        ["give the tmpfs at /run/msharefs room for 256 MiB", f"write {MOUNT_SPEC}"],
        {**PRESENT, "size": 64 << 20},
        {**PRESENT, "size": 256 << 20},
    ),
    "create": Change(
        "region",
        REGION,
        ["create region sga of 64 MiB at /run/msharefs", f"write {REGION_SPEC}"],
        ABSENT,
        {**PRESENT, "name": "sga"},
    ),
    "open": Change(
        "region",
        {**REGION, "mode": "0660", "group": "daemon"},
        ["set mode, owner or group of region sga", f"write {REGION_SPEC}"],
        {**PRESENT, "mode": "0600"},
        {**PRESENT, "mode": "0660", "group": "daemon"},
    ),
    "attach": Change(
        "clients",
        {"region": "sga", "count": 2},
        ["start 2 clients of region sga", f"write {CLIENTS_SPEC}"],
        ABSENT,
        {**PRESENT, "count": 2},
    ),
    "more": Change(
        "clients",
        {"region": "sga", "count": 5},
        ["set the number of clients of region sga to 5", f"write {CLIENTS_SPEC}"],
        {**PRESENT, "count": 2},
        {**PRESENT, "count": 5},
    ),
    "fewer": Change(
        "clients",
        {"region": "sga", "count": 1},
        ["set the number of clients of region sga to 1", f"write {CLIENTS_SPEC}"],
        {**PRESENT, "count": 5},
        {**PRESENT, "count": 1},
    ),
    "program": Change(
        "clients",
        {"region": "sga", "count": 2, "command": ["/bin/sleep", "1000"], "settle_seconds": 0},
        [
            "stop the clients of region sga, whose command, count, settle_seconds differ",
            "start 2 clients of region sga",
            f"write {CLIENTS_SPEC}",
        ],
        {**PRESENT, "count": 1},
        {**PRESENT, "count": 2, "command": ["/bin/sleep", "1000"]},
    ),
    "detach": Change(
        "clients",
        {"region": "sga", "state": "absent"},
        ["stop the clients of region sga", f"remove {CLIENTS_SPEC}"],
        PRESENT,
        ABSENT,
    ),
    "end": Change(
        "region",
        {"name": "sga", "state": "absent"},
        ["end region sga", f"remove {REGION_SPEC}"],
        PRESENT,
        ABSENT,
    ),
    "unmount": Change(
        "mount", {"state": "absent"}, ["unmount /run/msharefs", f"remove {MOUNT_SPEC}"], PRESENT, ABSENT
    ),
    "mount again": Change(
        "mount",
        {},
        [
            "mount the simulated msharefs at /run/msharefs",
            "lay out the simulated msharefs at /run/msharefs",
            "set mode and group of /run/msharefs",
            f"write {MOUNT_SPEC}",
        ],
        ABSENT,
        PRESENT,
    ),
    "create again": Change(
        "region",
        REGION,
        ["create region sga of 64 MiB at /run/msharefs", f"write {REGION_SPEC}"],
        ABSENT,
        PRESENT,
    ),
    "unmount by force": Change(
        "mount",
        {"state": "absent", "force": True},
        ["end region sga", "unmount /run/msharefs", f"remove {MOUNT_SPEC}"],
        PRESENT,
        ABSENT,
    ),
    "uninstall": Change(
        "runtime", {"state": "absent"}, ["remove the library from /usr/local/lib/mshare"], PRESENT, ABSENT
    ),
}


@dataclass(frozen=True)
class Converged:
    run: Run
    left_behind: list[str]


@pytest.fixture(scope="module")
def converged(host: Host) -> Converged:
    before = host.snapshot()
    tasks = []
    for name, change in CHANGES.items():
        tasks += [
            change.task(f"announce {name}", check_mode=True),
            # What has an environment of its own, the command line is not asked for.
            change.task(f"announce {name} by module", check_mode=True, environment={"ANY": "thing"}),
            change.task(f"do {name}"),
            change.task(f"repeat {name}"),
        ]
    run = host.play(tasks).succeeded()
    return Converged(run, host.changed_since(before))


every_change = pytest.mark.parametrize("name", CHANGES)


@every_change
def test_is_announced_as_it_is_done(converged: Converged, name: str) -> None:
    announced, done = converged.run[f"announce {name}"], converged.run[f"do {name}"]
    for key in ("changed", "actions", "diff", "boot"):
        assert announced[key] == done[key]


@every_change
def test_says_what_it_does(converged: Converged, name: str) -> None:
    done = converged.run[f"do {name}"]
    assert done["changed"] is True
    assert done["actions"] == CHANGES[name].actions


@every_change
def test_shows_a_diff(converged: Converged, name: str) -> None:
    done, change = converged.run[f"do {name}"], CHANGES[name]
    for side, expected in (("before", change.before), ("after", change.after)):
        (shown,) = done.sides(side).values()
        assert {key: shown.get(key) for key in expected} == expected
    assert done["diff"]["before"] != done["diff"]["after"]
    # What is read by people is text: no sums, no JSON in one line.
    assert "sha256" not in str(done["diff"])


@every_change
def test_is_not_done_twice(converged: Converged, name: str) -> None:
    repeated = converged.run[f"repeat {name}"]
    assert (repeated["changed"], repeated["actions"]) == (False, [])
    assert repeated["diff"]["before"] == repeated["diff"]["after"]


@every_change
def test_the_command_line_answers_as_the_module_does(converged: Converged, name: str) -> None:
    by_module, announced = (converged.run[f"announce {name}{how}"] for how in (" by module", ""))
    assert announced.returned == by_module.returned == converged.run[f"do {name}"].returned
    for key in announced.returned | {"changed", "diff"}:
        assert announced[key] == by_module[key]


@every_change
def test_no_module_is_sent_where_the_library_is(converged: Converged, name: str) -> None:
    change, run = CHANGES[name], converged.run
    # A module's result has the arguments it was called with.
    modules = {how for how in ("announce", "do", "repeat") if "invocation" in run[f"{how} {name}"].fields}
    if change.module != "runtime":
        assert modules == set()
    else:
        absent = change.fields.get("state") == "absent"
        assert modules == {"announce", "do", "repeat"} - (set() if absent else {"repeat"})


@every_change
def test_ends_where_the_diff_says(converged: Converged, name: str) -> None:
    assert converged.run[f"repeat {name}"]["diff"]["before"] == converged.run[f"do {name}"]["diff"]["after"]


def test_leaves_nothing_when_all_is_absent(converged: Converged) -> None:
    assert converged.left_behind == []


def test_facts_after_each_change(converged: Converged) -> None:
    run = converged.run
    assert run["do tighten"]["mount"]["mode"] == "1770"
    region = run["do open"]["region"]
    assert (region["health"], region["mode"], region["mapped_bytes"]) == ("healthy", "0660", 64 << 20)
    assert region["window_bytes"] == run["do mount"]["mount"]["alignment_bytes"]
    attached = {
        name: run[f"do {name}"]["clients"]["attached"] for name in ("attach", "more", "fewer", "program")
    }
    assert attached == {"attach": 2, "more": 5, "fewer": 1, "program": 2}
