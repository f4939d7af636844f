# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9: of clients, of their launcher, of the owner. What is said of it, and what puts it right."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from integration.hosts import Host, Result, Task, eventually

COUNT = 3
INFO: Task = {"dbmem.mshare.mshare_info": {}, "name": "look"}


def region(**fields: Any) -> Task:
    wanted = {"name": "sga", "size": "64MiB", "pattern": True, **fields}
    return {"name": "region", "dbmem.mshare.mshare_region": wanted, "ignore_errors": True}


def clients(**fields: Any) -> Task:
    return {"name": "clients", "dbmem.mshare.mshare_clients": {"region": "sga", "count": COUNT, **fields}}


@pytest.fixture
def deployed(host: Host) -> Host:
    host.play(
        [
            {"dbmem.mshare.mshare_runtime": {}},
            {"dbmem.mshare.mshare_mount": {}},
            region(replace_stale=True),
            clients(restart_dead=True),
        ]
    ).succeeded()
    assert len(host.processes()) == COUNT + 2
    return host


def status(host: Host, role: str) -> dict[str, Any]:
    return json.loads(host.inside(f"/run/mshare/run-msharefs/sga.{role}.json").read_text())


def the_region(look: Result) -> dict[str, Any]:
    (found,) = look["regions"]
    return found


def test_killed_clients(deployed: Host) -> None:
    victims = status(deployed, "clients")["pids"][:2]
    deployed.kill(*victims)
    eventually(lambda: len(status(deployed, "clients")["dead"]) == 2, "the launcher counts the dead")
    required = clients(require_all=True) | {"name": "required", "ignore_errors": True}
    restart = clients(restart_dead=True, require_all=True) | {"name": "restart"}
    run = deployed.play([INFO, clients(), required, restart]).succeeded()
    assert the_region(run["look"])["clients"]["attached"] == 1
    says = f"1 of {COUNT} clients are attached to region sga; 2 died, and the first reasons are: was killed"
    assert re.match(says, run["required"]["msg"])
    # Not started again unasked, and never counted as attached.
    unasked = run["clients"]
    assert (unasked["changed"], unasked["clients"]["attached"]) == (False, 1)
    dead = {one["pid"]: one["reason"] for one in unasked["clients"]["dead"]}
    assert dead == dict.fromkeys(victims, "was killed by SIGKILL")
    restarted = run["restart"]
    assert restarted["actions"] == ["start 2 dead clients of region sga again"]
    assert (restarted["clients"]["attached"], restarted["clients"]["dead"]) == (COUNT, [])


def test_killed_launcher(deployed: Host) -> None:
    deployed.kill(status(deployed, "clients")["pid"])
    eventually(lambda: len(deployed.processes()) == 1, "the clients end with their launcher")
    run = deployed.play([INFO, clients(), clients() | {"name": "again"}]).succeeded()
    found = the_region(run["look"])["clients"]
    assert (found["launcher_alive"], found["attached"]) == (False, 0)
    assert run["clients"]["actions"] == [f"start {COUNT} clients of region sga"]
    assert run["clients"]["clients"]["attached"] == COUNT
    assert run["again"]["changed"] is False


def test_killed_owner(deployed: Host) -> None:
    deployed.kill(status(deployed, "owner")["pid"])
    eventually(lambda: status(deployed, "clients")["attached"] == 0, "the launcher learns of the owner's end")
    run = deployed.play(
        [
            INFO,
            region(),
            region(replace_stale=True) | {"name": "announce repair", "check_mode": True},
            region(replace_stale=True) | {"name": "repair"},
            clients(),
            clients() | {"name": "again"},
        ]
    ).succeeded()
    found = the_region(run["look"])
    assert (found["health"], found["owner"]["alive"]) == ("stale", False)
    refused = run["region"]
    assert (refused.failed, refused["error_kind"]) == (True, "conflict")
    assert "its owner has ended" in refused["msg"]
    assert "replace_stale: true" in refused["msg"]
    assert run["announce repair"]["actions"] == run["repair"]["actions"]
    assert run["repair"]["region"]["health"] == "healthy"
    assert run["clients"]["clients"]["attached"] == COUNT
    assert run["clients"]["clients"]["errors"] == []
    assert run["again"]["changed"] is False


def test_teardown_after_a_killed_owner(deployed: Host) -> None:
    deployed.kill(status(deployed, "owner")["pid"])
    run = deployed.playbook("dbmem.mshare.teardown").succeeded()
    assert run.recap["changed"] > 0
    assert deployed.processes() == {}
    assert not deployed.inside("/run/mshare").exists()
    assert deployed.playbook("dbmem.mshare.teardown").succeeded().recap["changed"] == 0
