# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Patroni cluster of three real members goes onto huge pages and back, while a client writes.

One story, told in the order of this file. The hosts have a systemd, and no compiler. What Patroni itself does
to members that were moved, and what may go wrong with one, is told with MSHARE_PROVE=1 only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.patroni_cluster import DROP_IN, UNIT, PatroniCluster
from fleet.world import name, world
from integration.hosts import Run
from rig import huge_pages
from rig.hosts.base import PATRONI
from rig.hosts.fleet import missing_systemd

HOSTS = 3
MOVE = "Put PostgreSQL where it should be"
LOOK = "Check who manages the cluster, and whether it can be moved"
PAGES_EACH = 90
"""Huge pages for a member, more than its segment needs."""

pytestmark = pytest.mark.skipif(missing_systemd() is not None, reason=missing_systemd() or "")
long = pytest.mark.skipif(os.environ.get("MSHARE_PROVE") != "1", reason="another minute: MSHARE_PROVE=1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatroniCluster]:
    with world(tmp_path_factory.mktemp("patroni"), HOSTS, PATRONI) as hosts:
        one = PatroniCluster(hosts)
        one.start()
        one.begin_to_write()
        yield one


def move(cluster: PatroniCluster, *flags: str, **options: Any) -> Run:
    """The playbook, all hosts in one batch; they have all packages but a compiler, and get none."""
    wanted = {"restart_ok": True, "probes": 2, **options}
    return cluster.world.playbook(
        "dbmem.mshare.postgresql",
        *flags,
        mshare_serial=HOSTS,
        mshare_runtime_packages_managed=False,
        **{f"mshare_postgresql_{key}": value for key, value in wanted.items()},
    )


def look(cluster: PatroniCluster, number: int) -> Run:
    """The module alone, which restarts nothing."""
    task = {"name": MOVE, "dbmem.mshare.mshare_postgresql": {"probes": 2}, "ignore_errors": True}
    return cluster.world.play(number, task)


def failures(run: Run) -> dict[str, str]:
    return {result.host: result["msg"] for result in run.results if result.status == "failed"}


def postmasters(cluster: PatroniCluster) -> list[int]:
    return [cluster.postmaster(number) for number in cluster.numbers]


def test_without_permission_nothing_is_restarted(cluster: PatroniCluster) -> None:
    before, settings = postmasters(cluster), cluster.ask(0, "config")
    run = move(cluster, restart_ok=False).succeeded()
    for number in cluster.numbers:
        moved = run.on(name(number))[MOVE]
        assert moved["changed"]
        assert (moved["restart_required"], moved["restarted"]) == (True, False)
        assert f"restart Patroni itself (systemctl restart {UNIT})" in " ".join(moved["summary"])
        member = moved["cluster"]["patroni"]
        assert sorted(member.pop("members")) == sorted(map(name, cluster.numbers))
        assert member == {"scope": "17-main", "member": name(number), "leads": number == cluster.leader}
        assert "LD_PRELOAD=" in cluster.world.do(number, f"cat {DROP_IN}")
        cluster.world.do(number, "! command -v cc gcc clang")
    assert postmasters(cluster) == before
    # Its settings count for members that do not have the library as well.
    assert cluster.ask(0, "config") == settings


def test_a_paused_cluster_is_refused(cluster: PatroniCluster) -> None:
    """Restarting Patroni would leave PostgreSQL as it is; nothing has been changed anywhere."""
    before = postmasters(cluster)
    cluster.patronictl("pause", "--wait")
    refused = move(cluster)
    cluster.patronictl("resume", "--wait")
    assert all("the cluster is paused" in text for text in failures(refused).values())
    assert [recap["changed"] for recap in refused.recaps.values()] == [0] * HOSTS
    assert postmasters(cluster) == before


@long
def test_a_rest_api_with_tls_and_a_password(cluster: PatroniCluster) -> None:
    """Everything after this talks to it."""
    cluster.encrypt()


@long
def test_two_members_are_never_down(cluster: PatroniCluster) -> None:
    last = (cluster.leader + 1) % HOSTS
    before = postmasters(cluster)
    cluster.world.do(last, f"systemctl stop {UNIT}")
    refused = failures(move(cluster))
    assert "no Patroni runs for it on this host" in refused.pop(name(last))
    # Or the store has forgotten that member by now; the play has ended for all of them.
    assert all("two would be down at once" in text for text in refused.values()), refused
    cluster.world.do(last, f"systemctl start {UNIT}")
    cluster.world.eventually(lambda: cluster.is_whole(cluster.leader), "all members run")
    kept = [number for number in cluster.numbers if number != last]
    assert [postmasters(cluster)[number] for number in kept] == [before[number] for number in kept]
    # It was started with what was written for it before.
    cluster.require_preloaded(last)


def test_all_members_are_moved_replicas_first(cluster: PatroniCluster) -> None:
    before, timeline = cluster.leader, cluster.ask(0, "patroni")["timeline"]
    # Who was started with what was written before need not be restarted.
    expected = [name(number) for number in cluster.numbers if not cluster.is_preloaded(number)]
    run = move(cluster).succeeded()
    moved = [result for result in run.results if result.task.endswith(MOVE)]
    assert moved[-1].host == name(before)
    cluster.require_preloaded()
    assert cluster.leader != before
    # Nobody but the old leader handed over.
    assert cluster.ask(before, "patroni")["timeline"] == timeline + 1
    restarted = [result for result in moved if result["restarted"]]
    assert sorted(result.host for result in restarted) == expected
    for result in restarted:
        assert result["backend_segment"]["congruent_2mib"]
        costs = result["page_tables"]
        assert costs["after"]["average_bytes"] < costs["before"]["average_bytes"] / 2


def test_a_second_run_changes_nothing(cluster: PatroniCluster) -> None:
    before = postmasters(cluster)
    run = move(cluster).succeeded()
    assert [recap["changed"] for recap in run.recaps.values()] == [0] * HOSTS
    assert postmasters(cluster) == before


@long
def test_it_stays_through_what_patroni_does(cluster: PatroniCluster) -> None:
    """A restart, a switchover and a failover by Patroni's own tool, and a crash restart."""
    leader = cluster.leader
    others = [number for number in cluster.numbers if number != leader]
    cluster.patronictl("restart", "17-main", name(others[0]), "--force")
    cluster.world.eventually(cluster.is_whole, "the restarted member streams")
    cluster.require_preloaded(others[0])
    cluster.patronictl("switchover", "17-main", "--leader", name(leader), "--force")
    cluster.world.eventually(cluster.is_whole, "the old leader streams")
    cluster.require_preloaded()
    cluster.crash(cluster.leader)
    cluster.world.eventually(cluster.is_whole, "the crashed server is a member in order")
    cluster.require_preloaded()
    leader = cluster.leader
    cluster.patronictl("failover", "17-main", "--candidate", cluster.synchronous(), "--force")
    cluster.world.eventually(cluster.is_whole, "the leader before streams")
    assert cluster.leader != leader
    cluster.require_preloaded()


@long
def test_what_was_lost_is_told(cluster: PatroniCluster) -> None:
    """Somebody has started a member's Patroni without it."""
    replica = (cluster.leader + 1) % HOSTS
    cluster.world.do(
        replica, f"mv {DROP_IN} /root/kept && systemctl daemon-reload && systemctl restart {UNIT}"
    )
    cluster.world.eventually(cluster.is_whole, "the member streams again")
    assert not cluster.is_preloaded(replica)
    cluster.world.do(replica, f"mv /root/kept {DROP_IN} && systemctl daemon-reload")
    looked = look(cluster, replica).succeeded()[MOVE]
    assert "since then it was restarted, as postmaster" in looked["lost"]
    assert not looked["changed"]


@long
def test_native_pages_are_set_in_the_store(cluster: PatroniCluster) -> None:
    """From the library's pages: without a pool, in a check, and for good; and back, exactly."""
    settings, before = cluster.ask(0, "config"), postmasters(cluster)
    # Nobody else reserves pages meanwhile; what somebody has left there would be enough.
    with huge_pages.alone() as there_already:
        refused = {} if there_already else failures(move(cluster, pages="native"))
    assert all("reserve" in text and "so nothing was changed" in text for text in refused.values()), refused
    assert (cluster.ask(0, "config"), postmasters(cluster)) == (settings, before)
    with huge_pages.reserved(HOSTS * PAGES_EACH + huge_pages.OF_AN_INITDB):
        alone = failures(move(cluster, "--limit", name(0), pages="native"))
        assert "this play cannot ask the hosts of" in alone[name(0)]
        looked = move(cluster, "--check", "--diff", pages="native").succeeded()
        actions = looked.on(name(0))[MOVE]["actions"]
        store = "in the store of Patroni cluster 17-main (before: off)"
        assert f"set postgresql.parameters.huge_pages to on {store}" in actions
        assert (cluster.ask(0, "config"), postmasters(cluster)) == (settings, before)

        leader = cluster.leader
        run = move(cluster, pages="native").succeeded()
        moved = [result for result in run.results if result.task.endswith(MOVE)]
        assert moved[-1].host == name(leader)
        assert cluster.leader != leader
        there = cluster.ask(0, "config")
        assert there["postgresql"]["parameters"]["huge_pages"] == "on"
        assert there["dbmem_mshare"] == {"parameters": {"huge_pages": {"set": "on", "before": "off"}}}
        for number in cluster.numbers:
            assert cluster.sql("SHOW huge_pages_status", number) == "on"
            assert not cluster.is_preloaded(number)
            cluster.world.do(number, f"! test -e {DROP_IN}")
            assert not cluster.ask(number, "patroni").get("pending_restart")
        cluster.world.eventually(cluster.is_whole, "all members stream")
        again = move(cluster, pages="native").succeeded()
        assert [recap["changed"] for recap in again.recaps.values()] == [0] * HOSTS

        move(cluster, state="absent").succeeded()
        assert cluster.ask(0, "config") == settings
        for number in cluster.numbers:
            assert cluster.sql("SHOW huge_pages_status", number) == "off"
            cluster.world.do(number, "! test -e /etc/mshare")
        cluster.world.eventually(cluster.is_whole, "all members stream again")


def test_the_way_back_and_no_acknowledged_row_is_missing(cluster: PatroniCluster) -> None:
    settings = cluster.ask(0, "config")
    # Who was started without it need not be restarted.
    preloaded = [number for number in cluster.numbers if cluster.is_preloaded(number)]
    run = move(cluster, state="absent").succeeded()
    restarted = [result.host for result in run.results if result.task.endswith(MOVE) and result["restarted"]]
    assert sorted(restarted) == [name(number) for number in preloaded]
    for number in cluster.numbers:
        assert not cluster.is_preloaded(number)
        cluster.world.do(number, f"! test -e {DROP_IN} && ! test -e /etc/mshare")
    assert cluster.ask(0, "config") == settings
    acknowledged, kept = cluster.end_of_writing()
    assert len(acknowledged) > 100
    assert acknowledged <= kept
    cluster.world.teardown().succeeded()
    for number in cluster.numbers:
        cluster.world.do(number, "! test -e /usr/local/lib/mshare")
