# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Patroni cluster of three real members goes onto huge pages and back, while a client writes.

One story, told in the order of this file. The hosts have a systemd, and no compiler. One member runs a
Patroni before 4.0; the REST API wants a client's certificate, and commits want a synchronous replica. A
standby cluster follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.patroni_cluster import DROP_IN, OLD, SCARCE, UNIT, PatroniCluster
from fleet.world import name, world
from integration.hosts import Result, Run
from rig import huge_pages
from rig.hosts.base import PATRONI
from rig.hosts.fleet import missing_systemd

HOSTS = 5
MEMBERS, STANDBYS = range(3), range(3, HOSTS)
MOVE = "Put PostgreSQL where it should be"
RUNS = 5
PAGES = len(MEMBERS) * 90 + 3 * huge_pages.OF_AN_INITDB
"""More huge pages than the members' segments need: other tests may start a PostgreSQL meanwhile, which takes
pages if there are any."""

pytestmark = pytest.mark.skipif(missing_systemd() is not None, reason=missing_systemd() or "")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PatroniCluster]:
    with world(tmp_path_factory.mktemp("patroni"), HOSTS, PATRONI) as hosts:
        one = PatroniCluster(hosts, MEMBERS)
        one.start(old=0)
        one.begin_to_write()
        yield one


def move(cluster: PatroniCluster, *flags: str, **options: Any) -> Run:
    """The playbook, all hosts in one batch; they have all packages but a compiler, and get none."""
    huge_pages.compact()
    wanted = {"restart_ok": True, "probes": 2, **options}
    return cluster.world.playbook(
        "dbmem.mshare.postgresql",
        *flags,
        on=cluster.numbers,
        mshare_serial=HOSTS,
        mshare_runtime_packages_managed=False,
        **{f"mshare_postgresql_{key}": value for key, value in wanted.items()},
    )


def runs(cluster: PatroniCluster, **options: Any) -> list[Run]:
    """Run the playbook, each time with the leader last. Other tests may have left the kernel without huge
    pages, which the playbook refuses to live with: then it runs again."""
    done: list[Run] = []
    while len(done) < RUNS:
        leader = cluster.leader
        done.append(move(cluster, **options))
        assert moved(done[-1])[-1].host == name(leader)
        if not any(SCARCE in text for text in failures(done[-1]).values()):
            done[-1].succeeded()
            return done
    raise AssertionError(f"the kernel had no huge pages in {RUNS} runs")


def moved(run: Run) -> list[Result]:
    """What came of each member, in their order."""
    return [result for result in run.results if result.task.endswith(MOVE)]


def look(cluster: PatroniCluster, number: int) -> Run:
    """The module alone, which restarts nothing."""
    task = {"name": MOVE, "dbmem.mshare.mshare_postgresql": {"probes": 2}, "ignore_errors": True}
    return cluster.world.play(number, task)


def failures(run: Run) -> dict[str, str]:
    return {result.host: result["msg"] for result in run.results if result.status == "failed"}


def postmasters(cluster: PatroniCluster) -> list[int]:
    return [cluster.postmaster(number) for number in cluster.numbers]


def unchanged(run: Run) -> bool:
    return not any(recap["changed"] for recap in run.recaps.values())


def test_without_permission_nothing_is_restarted(cluster: PatroniCluster) -> None:
    versions = [cluster.ask(number, "patroni")["patroni"]["version"] for number in MEMBERS]
    assert versions[0] == OLD
    assert all(version.startswith("4.") for version in versions[1:])
    before, settings = postmasters(cluster), cluster.ask(0, "config")
    run = move(cluster, restart_ok=False).succeeded()
    for number in MEMBERS:
        result = run.on(name(number))[MOVE]
        assert result["changed"]
        assert (result["restart_required"], result["restarted"]) == (True, False)
        assert f"restart Patroni itself (systemctl restart {UNIT})" in " ".join(result["summary"])
        member = result["cluster"]["patroni"]
        urls = dict(zip(member.pop("members"), member.pop("api_urls")))
        assert sorted(urls) == sorted(map(name, MEMBERS))
        assert urls[name(number)] == member.pop("api_url")
        assert member == {"scope": "17-main", "member": name(number), "leads": number == cluster.leader}
        found = cluster.world.do(number, f"! command -v cc gcc clang && cat {DROP_IN}")
        assert "LD_PRELOAD=" in found
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
    assert failures(refused)
    assert unchanged(refused)
    assert postmasters(cluster) == before


def test_two_members_are_never_down(cluster: PatroniCluster) -> None:
    last = cluster.others[-1]
    before = postmasters(cluster)
    cluster.world.do(last, f"systemctl stop {UNIT}")
    refused = move(cluster)
    texts = failures(refused)
    assert "no Patroni runs for it on this host" in texts.pop(name(last))
    # Or the play has ended for them before they were asked.
    assert all("two would be down at once" in text for text in texts.values()), texts
    assert unchanged(refused)
    cluster.world.do(last, f"systemctl start {UNIT}")
    cluster.until_whole("all members run", cluster.leader)
    kept = [number for number in MEMBERS if number != last]
    assert [postmasters(cluster)[number] for number in kept] == [before[number] for number in kept]
    # It was started with what was written for it before.
    cluster.require_moved(last)


def test_all_members_are_moved_replicas_first(cluster: PatroniCluster) -> None:
    before = cluster.leader
    timeline = cluster.timeline(before)
    # Who was started with what was written before need not be restarted.
    expected = [name(number) for number in MEMBERS if not cluster.is_moved(number)]
    done = runs(cluster)
    results = [result for run in done for result in moved(run) if not result.failed and result["restarted"]]
    assert sorted(result.host for result in results) == expected
    assert all(map(cluster.is_moved, MEMBERS))
    cluster.until_whole("the old leader streams")
    if len(done) == 1:
        assert cluster.leader != before
        # Nobody but the old leader handed over.
        assert cluster.timeline(cluster.leader) == timeline + 1
    for result in results:
        assert result["backend_segment"]["congruent_2mib"]
        costs = result["page_tables"]
        assert costs["after"]["average_bytes"] < costs["before"]["average_bytes"] / 2


def test_a_second_run_changes_nothing(cluster: PatroniCluster) -> None:
    before = postmasters(cluster)
    assert unchanged(move(cluster).succeeded())
    assert postmasters(cluster) == before


def test_it_stays_through_what_patroni_does(cluster: PatroniCluster) -> None:
    """A restart, a switchover and a failover by Patroni's own tool, and a crash restart."""
    replica = cluster.others[0]
    cluster.restart(replica)
    cluster.require_moved(replica)
    cluster.hand_over("switchover", "--leader", name(cluster.leader))
    cluster.require_moved()
    cluster.crash(cluster.leader)
    cluster.require_moved()
    cluster.hand_over("failover", "--candidate", cluster.synchronous())
    cluster.require_moved()


def test_what_was_lost_is_told(cluster: PatroniCluster) -> None:
    """Somebody has started a member's Patroni without it."""
    replica = cluster.others[0]
    before = cluster.postmaster(replica)
    cluster.world.do(
        replica, f"mv {DROP_IN} /root/kept && systemctl daemon-reload && systemctl restart {UNIT}"
    )
    cluster.world.eventually(lambda: cluster.postmaster(replica) != before, "the member was restarted")
    cluster.until_whole("the member streams again")
    assert not cluster.is_preloaded(replica)
    cluster.world.do(replica, f"mv /root/kept {DROP_IN} && systemctl daemon-reload")
    looked = look(cluster, replica).succeeded()[MOVE]
    assert "since then it was restarted, as postmaster" in looked["lost"]
    assert not looked["changed"]


def test_native_pages_are_set_in_the_store(cluster: PatroniCluster) -> None:
    """From the library's pages: without a pool, in a check, and for good; and back, exactly."""
    settings, before = cluster.ask(0, "config"), postmasters(cluster)
    huge_pages.compact()
    # Nobody else reserves pages meanwhile; what somebody has left there would be enough.
    with huge_pages.alone() as there_already:
        refused = {} if there_already else failures(move(cluster, pages="native"))
    assert all("reserve" in text and "so nothing was changed" in text for text in refused.values()), refused
    assert (cluster.ask(0, "config"), postmasters(cluster)) == (settings, before)
    with huge_pages.reserved(PAGES):
        alone = failures(move(cluster, "--limit", name(0), pages="native"))
        assert "this play cannot ask the hosts of" in alone[name(0)]
        looked = move(cluster, "--check", "--diff", pages="native").succeeded()
        actions = looked.on(name(0))[MOVE]["actions"]
        store = "in the store of Patroni cluster 17-main (before: off)"
        assert f"set postgresql.parameters.huge_pages to on {store}" in actions
        assert (cluster.ask(0, "config"), postmasters(cluster)) == (settings, before)

        leader = cluster.leader
        runs(cluster, pages="native")
        assert cluster.leader != leader
        there = cluster.ask(0, "config")
        assert there["postgresql"]["parameters"]["huge_pages"] == "on"
        assert there["dbmem_mshare"] == {"parameters": {"huge_pages": {"set": "on", "before": "off"}}}
        for number in MEMBERS:
            assert cluster.sql("SHOW huge_pages_status", number) == "on"
            assert not cluster.is_preloaded(number)
            cluster.world.do(number, f"! test -e {DROP_IN}")
        cluster.until_whole("all members stream")
        cluster.world.eventually(lambda: not cluster.pending(), "nobody waits for a restart")
        assert unchanged(move(cluster, pages="native").succeeded())

        move(cluster, state="absent").succeeded()
        assert cluster.ask(0, "config") == settings
        for number in MEMBERS:
            assert cluster.sql("SHOW huge_pages_status", number) == "off"
            cluster.world.do(number, "! test -e /etc/mshare")
        cluster.until_whole("all members stream again")


@pytest.fixture(scope="module")
def standby(cluster: PatroniCluster) -> PatroniCluster:
    """A cluster that follows the other one; its second member may not lead."""
    one = PatroniCluster(cluster.world, STANDBYS, cluster)
    one.start(tags={STANDBYS[1]: {"nofailover": True, "noloadbalance": True}})
    return one


def test_a_leader_without_a_successor_is_refused(standby: PatroniCluster) -> None:
    leader, before = standby.leader, postmasters(standby)
    assert leader != STANDBYS[1]
    refused = move(standby)
    assert "no replica is near enough to it and free to take over" in failures(refused)[name(leader)]
    assert unchanged(refused)
    assert postmasters(standby) == before


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_standby_cluster_goes_there_and_back(
    standby: PatroniCluster, cluster: PatroniCluster, state: str
) -> None:
    """Its leader follows a primary elsewhere, and hands over without a new timeline."""
    second = STANDBYS[1]
    standby.configure(second, {"tags": {"nofailover": None}})
    standby.reload(second)

    def may_lead() -> bool:
        return "nofailover" not in standby.members()[name(second)].get("tags", {})

    cluster.world.eventually(may_lead, "the second member may lead")
    leader, before = standby.leader, postmasters(standby)
    done = runs(standby, state=state)
    assert standby.leader != leader or len(done) > 1
    standby.until_whole("both members stream")
    assert all(one != other for one, other in zip(before, postmasters(standby)))
    for number in STANDBYS:
        assert (standby.is_moved(number), standby.is_preloaded(number)) == (state == "present",) * 2
        there = "" if state == "present" else "! "
        cluster.world.do(number, f"{there}test -e {DROP_IN} && {there}test -e /etc/mshare")
        assert standby.timeline(number) == cluster.timeline(cluster.leader)
    count = "SELECT count(*) FROM entries"
    rows = int(cluster.sql(count))
    cluster.world.eventually(lambda: int(standby.sql(count)) >= rows, "the standby cluster has all rows")


def test_no_acknowledged_row_is_missing(cluster: PatroniCluster) -> None:
    # Where no huge pages could be reserved, they are where they were moved before.
    if any(map(cluster.is_preloaded, MEMBERS)):
        move(cluster, state="absent").succeeded()
    for number in MEMBERS:
        assert not cluster.is_preloaded(number)
        cluster.world.do(number, f"! test -e {DROP_IN} && ! test -e /etc/mshare")
    acknowledged, kept = cluster.end_of_writing()
    assert len(acknowledged) > 100
    assert acknowledged <= kept
    cluster.world.teardown().succeeded()
    for number in range(HOSTS):
        cluster.world.do(number, "! test -e /usr/local/lib/mshare")
