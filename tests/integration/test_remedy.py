# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook remedy on a host with two real PostgreSQL clusters: applied, again, undone, and refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.clusters import PLACED, Cluster, mapped, missing
from integration.hosts import Host, Run, differences, eventually
from mshare.kernel import madvise
from mshare.units import MIB
from rig import documents, huge_pages, patience

PLAYBOOK = "dbmem.mshare.remedy"
BUFFERS_BYTES = 128 * MIB
SCAN = "SELECT pg_prewarm('pgbench_accounts'), sum(abalance) FROM pgbench_accounts"
PLAN, APPLY = "Survey, plan, and check what would be done", "Apply it"
RECORD = "/etc/mshare/remedy.json"

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def main(host: Host) -> Iterator[Cluster]:
    cluster = Cluster(host)
    cluster.create(shared_buffers=f"{BUFFERS_BYTES // MIB}MB")
    cluster.fill(1)
    yield cluster
    cluster.control("stop")


@pytest.fixture(scope="module")
def second(host: Host, main: Cluster) -> Iterator[Cluster]:
    cluster = Cluster(host, "second", 5433)
    cluster.create(shared_buffers=f"{BUFFERS_BYTES // MIB}MB")
    cluster.fill(1)
    yield cluster
    cluster.control("stop")


@pytest.fixture
def clusters(main: Cluster, second: Cluster) -> Iterator[list[Cluster]]:
    """Both, on a machine whose pool nobody else changes."""
    with huge_pages.restored():
        yield [main, second]


def playbook(cluster: Cluster, *flags: str, remedy: str | None = None, **variables: Any) -> Run:
    given = {f"mshare_remedy_{name}": value for name, value in variables.items()}
    if remedy is not None:
        given["mshare_remedy"] = remedy
    # Others may start a PostgreSQL meanwhile, which takes pages if there are any: enough for two of them.
    usual = {"mshare_remedy_probes": 3, "mshare_remedy_spare": 160}
    return cluster.host.playbook(PLAYBOOK, *flags, variables={**usual, **given})


def role(cluster: Cluster) -> Run:
    """The play of the role's own documentation, which asks for what the plan recommends."""
    (play,) = documents.plays(documents.yaml_blocks("roles/remedy/README.md: Role dbmem.mshare.remedy"))
    return cluster.host.play(play["tasks"], serial=1)


def typed(script: str) -> list[list[str]]:
    """Commands of the documentation, as what follows the playbook; a test host has its own inventory."""
    lines = script.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(each[:2] == ["ansible-playbook", PLAYBOOK] for each in words)
    own = "-i inventory.ini -e mshare_hosts=databases"
    return [" ".join(each[2:]).replace(own, "").split() for each in words]


def state(clusters: list[Cluster]) -> list[Any]:
    """All that a refused run must leave as it is."""
    host = clusters[0].host
    # What a server calls its own processes and memory is new after each start.
    own = ("process postgres: ", "path /dev/shm/PostgreSQL.")
    traces = [line for line in host.snapshot() if not line.startswith(own)]
    return [traces, huge_pages.count(), *((each.files(), each.pid) for each in clusters)]


def changed_since(before: list[Any], clusters: list[Cluster]) -> list[Any]:
    """What differs from a state, but for the servers' pids: they were restarted."""
    traces, count, *files = state(clusters)
    differs: list[Any] = differences(before[0], traces)
    if count != before[1]:
        differs.append(f"{count} huge pages, {before[1]} before")
    differs += [now for (now, __), (then, __) in zip(files, before[2:]) if now != then]
    return differs


def by_cluster(run: Run, task: str = APPLY) -> dict[str, dict[str, Any]]:
    return {each["cluster"]: each for each in run[task]["instances"] if each["cluster"]}


def undone(cluster: Cluster, *flags: str, **variables: Any) -> Run:
    """Undo everything. Other tests' programs may have pages for a moment, as initdb takes some if there are
    any; the pool is not taken away from them, so this is tried again."""
    runs: list[Run] = []

    def tried() -> bool:
        runs.append(playbook(cluster, *flags, **variables))
        return "are in use or reserved" not in runs[-1].output

    patience.eventually(tried, lambda: runs[-1].output, looks=20)
    return runs[-1].succeeded()


@pytest.fixture
def others() -> Iterator[int]:
    """How many pages the pool has, of which a program of others has some, which it keeps all the time."""
    with huge_pages.of_others(3) as count:
        yield count


def require_survey_and_plan(clusters: list[Cluster], folder: Path) -> None:
    """What the two say of both servers before anything is done."""
    main = clusters[0]
    surveyed = main.host.playbook("dbmem.mshare.survey", variables={"mshare_survey_folder": str(folder)})
    instances = {each["name"]: each for each in surveyed.succeeded()["Survey"]["survey"]["instances"]}
    planned = main.host.playbook("dbmem.mshare.plan").succeeded()["Plan"]
    rows = {each["name"]: {row["id"]: row for row in each["rows"]} for each in planned["instances"]}
    for cluster in clusters:
        (name,) = [each for each in rows if str(cluster.port) in each]
        assert instances[name]["page_tables"]["sum_bytes"] > 0
        assert not any(segment["huge_bytes"] for segment in instances[name]["segments"])
        assert rows[name]["hugetlb_2m"]["usable"]


def test_native_there_again_and_back(clusters: list[Cluster], others: int, tmp_path: Path) -> None:
    """The whole story: survey, plan, apply, verify, again, nothing to do, and back to the snapshot. In a pool
    that others use."""
    main, second = clusters
    before = state(clusters)
    check, apply, undo = typed(documents.script("docs/remedy.md: Apply the remedy"))
    with main.backend(SCAN), second.backend(SCAN):
        require_survey_and_plan(clusters, tmp_path)
        shown = playbook(main, *check, remedy="native", restart_ok=True).succeeded()
    assert state(clusters) == before
    assert any("huge_pages = on\n" in pair["after"] for pair in shown[PLAN]["diff"])
    assert [action for action in shown[PLAN]["actions"] if "restart PostgreSQL cluster 15-" in action]
    with main.backend(SCAN), second.backend(SCAN):
        run = playbook(main, *apply, remedy="native").succeeded()
    for cluster in clusters:
        assert PLACED["native"](mapped(main.host, cluster.pid))
    results = by_cluster(run)
    assert sorted(results) == ["15-main", "15-second"]
    for result in results.values():
        assert (result["remedy"], result["restarted"], result["restart_required"]) == ("native", True, False)
        (measured,) = result["measured"]
        assert measured["processes"] == 3
        assert 0 < measured["after_bytes"] < measured["before_bytes"]
    # One pool for both, beside those who have pages already.
    assert run[APPLY]["pool"]["before"] == others
    assert huge_pages.count() == run[APPLY]["pool"]["pages"] >= others + 2 * BUFFERS_BYTES // (2 * MIB)
    assert main.host.inside(RECORD).exists()
    assert "15-main): native, changed" in run.output
    with main.backend(SCAN), second.backend(SCAN):
        again, auto = playbook(main, *apply, remedy="native").succeeded(), role(main).succeeded()
        planned = main.host.playbook("dbmem.mshare.plan").succeeded()
    assert [run[APPLY]["actions"] for run in (again, auto)] == [[], []]
    assert [run.recap["changed"] for run in (again, auto)] == [0, 0]
    assert planned["Plan"]["paste"]["sysctl"] == planned["Plan"]["paste"]["database"] == []
    assert all("Nothing to do" in each["verdict"][0] for each in planned["Plan"]["instances"])
    gone = undone(main, *undo)
    assert gone[APPLY]["changed"]
    assert gone[APPLY]["recorded"] is False
    assert huge_pages.count() == others
    assert changed_since(before, clusters) == []
    assert playbook(main, *undo).succeeded().recap["changed"] == 0


def test_what_fails_goes_back(clusters: list[Cluster]) -> None:
    """The second server does not start again: the first is as it was, and so is the pool."""
    main, second = clusters
    before = state(clusters)
    # Nobody knows that before it is started.
    second.set("wrong.conf", unix_socket_directories="/no/such/directory")
    run = playbook(main, remedy="native", restart_ok=True)
    second.unset("wrong.conf")
    assert "/no/such/directory" in run.said
    second.control("start")
    if "going back failed for the pool" in run.said:
        # Somebody else's initdb had some of its pages at that moment.
        undone(main, state="absent", restart_ok=True)
    else:
        assert "what this run had done before that is undone" in run.said
    assert changed_since(before, clusters) == []
    assert not PLACED["native"](mapped(main.host, main.pid))


def test_a_standby_that_takes_no_connections(clusters: list[Cluster]) -> None:
    """Nothing can be measured in it; where its memory is, its processes show."""
    main, second = clusters
    signal = main.host.inside(f"{second.data}/standby.signal")
    second.set("standby.conf", hot_standby="off")
    signal.touch()
    second.control("restart")
    names = ["postgresql 5433"]
    run = playbook(main, remedy="native", restart_ok=True, instances=names).succeeded()
    (result,) = by_cluster(run).values()
    assert (result["cluster"], result["restarted"], result["measured"]) == ("15-second", True, [])
    assert PLACED["native"](mapped(main.host, second.pid))
    undone(main, state="absent", restart_ok=True)
    assert not PLACED["native"](mapped(main.host, second.pid))
    signal.unlink()
    second.unset("standby.conf")
    second.control("restart")
    assert second.sql("SELECT pg_is_in_recovery()") == "f"


REFUSED = {
    "of RAM": {"remedy": "native", "share_of_ram_max": 0.001},
    "'postgresql 1' is not on this host; its instances are postgresql 5432": {"instances": ["postgresql 1"]},
    "spare 'much' is neither a number of pages nor a size": {"remedy": "native", "spare": "much"},
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_before_anything_is_changed(clusters: list[Cluster], words: str) -> None:
    before = state(clusters)
    with clusters[0].backend(SCAN):
        run = playbook(clusters[0], **REFUSED[words])
    assert words in run.said
    assert run.recap["changed"] == 0
    assert state(clusters) == before


def test_a_server_of_patroni_s_is_refused_with_all_of_its_host(clusters: list[Cluster]) -> None:
    main, second = clusters
    main.host.do("mkdir", "-p", "/etc/patroni")
    main.host.inside("/etc/patroni/second.yml").write_text(f"postgresql:\n  data_dir: {second.data}\n")
    before = state(clusters)
    with main.backend(SCAN), second.backend(SCAN):
        run = playbook(main, remedy="thp", restart_ok=True)
    assert "postgresql 5433 is managed by Patroni (/etc/patroni/second.yml names" in run.said
    assert "so nothing was changed" in run.said
    assert run.recap["changed"] == 0
    assert state(clusters) == before
    main.host.do("rm", "-r", "/etc/patroni")


def test_nothing_is_restarted_unless_allowed(clusters: list[Cluster]) -> None:
    main, __ = clusters
    before = state(clusters)
    names = ["postgresql 5432"]
    with main.backend(SCAN):
        run = playbook(main, remedy="thp", restart_ok=False, instances=names).succeeded()
        again = playbook(main, remedy="thp", restart_ok=False, instances=names).succeeded()
    (result,) = by_cluster(run).values()
    assert (result["restarted"], result["restart_required"]) == (False, True)
    assert "mshare_remedy_restart_ok=true" in run.output
    assert again.recap["changed"] == 0
    assert playbook(main, state="absent", restart_ok=False).succeeded()[APPLY]["recorded"] is False
    # The library stays for others.
    assert state(clusters) != before
    main.host.playbook("dbmem.mshare.teardown").succeeded()
    assert state(clusters) == before


@pytest.mark.skipif(not madvise.can_collapse(), reason="this kernel has no MADV_COLLAPSE")
def test_collapse_comes_back_after_a_crash_by_itself(clusters: list[Cluster]) -> None:
    main, __ = clusters
    before = state(clusters)
    with main.backend(SCAN):
        run = playbook(main, remedy="collapse", restart_ok=True, instances=["postgresql 5432"]).succeeded()
    (result,) = by_cluster(run).values()
    assert result["service"]

    # As the documentation has it, but for the time between two looks.
    (block,) = documents.yaml_blocks("docs/collapse.md: Again after a restart")
    (task,) = yaml.safe_load(block.text)
    task["dbmem.mshare.mshare_collapse"]["interval"] = 1
    with main.backend(SCAN):
        kept = main.host.play([task]).succeeded()["Keep PostgreSQL in huge pages"]
    assert kept["service"]["running"]
    assert kept["after"]["huge_bytes"] >= 0.9 * kept["after"]["used_bytes"] > 0
    starts = main.log().count("ready to accept connections")
    with main.backend() as pid:
        main.host.kill(pid)
    eventually(lambda: main.log().count("ready to accept connections") > starts, "the crash restart")
    with main.backend(SCAN):
        eventually(lambda: PLACED["thp"](mapped(main.host, main.pid)), "huge pages after a crash restart")
    playbook(main, state="absent", restart_ok=True).succeeded()
    main.host.playbook("dbmem.mshare.teardown").succeeded()
    assert changed_since(before, clusters) == []
