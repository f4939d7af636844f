# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that fails: who stops with it, and what is left on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.world import World, name
from integration.hosts import differences

HOSTS = 3
# On the first host the region's file is to belong to a group that there is not.
BAD = "host1 mshare_region_group=no-such-group\n"


@pytest.fixture(scope="module")
def before(hosts: World) -> Iterator[list[list[str]]]:
    found = hosts.snapshots()
    yield found
    hosts.teardown().succeeded()
    assert hosts.changed_since(found) == {}


@pytest.fixture
def bad(hosts: World) -> tuple[str, str]:
    """Flags of a run in which the first host fails."""
    inventory = hosts.scratch / "bad.ini"
    inventory.write_text(BAD)
    return ("-i", str(inventory))


def test_the_first_failure_ends_a_rolling_run(
    hosts: World, before: list[list[str]], bad: tuple[str, str]
) -> None:
    run = hosts.deploy(*bad, mshare_serial=2)
    assert run.exit_code == 2, run.output
    assert "no group 'no-such-group'" in run.said
    assert set(run.recaps) == {name(0), name(1)}
    # Its neighbour in the batch was stopped before its next task; nobody else was touched.
    assert {one.task.split(" : ")[-1] for one in run.on(name(1)).results} & {"Attach the clients"} == set()
    assert set(hosts.changed_since(before)) == {name(0), name(1)}
    assert hosts.region(0) is None
    assert hosts.processes(0) == []


def test_as_many_may_fail_as_somebody_says(hosts: World, bad: tuple[str, str]) -> None:
    run = hosts.deploy(*bad, mshare_serial=2, mshare_max_fail_percentage=50)
    assert run.exit_code == 2
    assert [run.recaps[name(number)]["failures"] for number in range(HOSTS)] == [1, 0, 0]
    assert [hosts.region(number) is not None for number in range(HOSTS)] == [False, True, True]


def role(which: str, **variables: Any) -> dict[str, Any]:
    return {"ansible.builtin.include_role": {"name": f"dbmem.mshare.{which}"}, "vars": variables}


def test_a_rescued_host_has_nothing_half_made(hosts: World) -> None:
    # It has the library and a mount, and no region, since its deployment failed.
    before = hosts.snapshot(0)
    hosts.do(0, "mount -o remount,size=32M /run/msharefs")
    failing = [
        ("no group 'no-such-group'", role("region", mshare_region_group="no-such-group")),
        # Past every check that comes before a start: the owner itself finds that there is no room.
        (
            "prefaulting region sga needs 64 MiB",
            role("region", mshare_region_prefault=True),
        ),
        ("has no running owner", role("clients")),
    ]
    rescued = [
        {"block": [one], "rescue": [{"ansible.builtin.debug": {"msg": "rescued"}}]} for __, one in failing
    ]
    run = hosts.play(0, *rescued).succeeded()
    said = [one["msg"] for one in run.results if one.status == "failed"]
    assert len(said) == len(failing), said
    for (expected, __), sentence in zip(failing, said):
        assert expected in sentence
    assert differences(before, hosts.snapshot(0)) == []


def test_throttle_lets_one_host_at_a_time_start_its_clients(hosts: World) -> None:
    settling = role("clients", mshare_clients_command=["sleep", "600"], mshare_clients_settle_seconds=2)
    hosts.play((1, 2), settling, throttle=1).succeeded()
    ticks = sorted(hosts.status(number, "clients")["started_ticks"] for number in (1, 2))
    # Each took its two seconds (of 100 ticks) before the other began.
    assert ticks[1] - ticks[0] >= 2 * 100
