# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Twenty hosts, five at a time: a deployment, a second one, and a teardown of the first five."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fleet.world import SMALL, World, name
from integration.hosts import Run

HOSTS, BATCH = 20, 5


@dataclass
class Rolled:
    first: Run
    second: Run
    teardown: Run
    left: dict[str, list[str]]


@pytest.fixture(scope="module")
def rolled(hosts: World) -> Rolled:
    before = hosts.snapshots()
    first, second = (hosts.deploy(mshare_serial=BATCH) for __ in range(2))
    teardown = hosts.teardown(on=range(BATCH))
    left = hosts.changed_since(before)
    return Rolled(
        first, second, teardown, {name(number): left.get(name(number), []) for number in range(BATCH)}
    )


def test_every_host_has_a_region_with_its_clients(rolled: Rolled) -> None:
    rolled.first.succeeded()
    assert {recap["failures"] for recap in rolled.first.recaps.values()} == {0}
    for number in range(HOSTS):
        # What the second run found there, with which it had nothing to do.
        found = rolled.second.on(name(number))
        assert found["Create the region"]["region"]["health"] == "healthy"
        assert found["Attach the clients"]["clients"]["attached"] == SMALL["mshare_clients_count"]


def test_a_batch_is_done_before_the_next_begins(rolled: Rolled) -> None:
    deploying = [one.host for one in rolled.first.results if one.task != "Measure" and one.task != "Show"]
    batches = [(int(host.removeprefix("host")) - 1) // BATCH for host in deploying]
    assert batches == sorted(batches)
    assert set(deploying) == {name(number) for number in range(HOSTS)}


def test_a_second_run_changes_nothing_anywhere(rolled: Rolled) -> None:
    assert {host: recap["changed"] for host, recap in rolled.second.succeeded().recaps.items()} == {
        name(number): 0 for number in range(HOSTS)
    }


def test_a_teardown_leaves_hosts_as_they_were(rolled: Rolled) -> None:
    rolled.teardown.succeeded()
    assert rolled.left == {name(number): [] for number in range(BATCH)}
