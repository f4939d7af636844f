# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role postgresql: a Debian cluster with load on it goes onto a region or huge pages, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest

from integration.clusters import PLACED, Cluster, Load, mapped, missing
from integration.hosts import Host, Run, Task
from integration.test_results import ON_SUCCESS, documented, names
from mshare.units import KIB, MIB
from rig import huge_pages

BUFFERS_BYTES = 128 * MIB
PROBES = 5
PLAYBOOK = "dbmem.mshare.postgresql"
MOVE = "Put PostgreSQL where it should be"
POOL_PAGES = 100
KINDS = {"thp": "anonymous", "hugetlb": "hugetlb", "4k": "msharefs", "native": "hugetlb"}
"""Of the segment, by pages."""

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def cluster(host: Host) -> Iterator[Cluster]:
    one = Cluster(host)
    one.create(shared_buffers=f"{BUFFERS_BYTES // MIB}MB")
    one.fill(1)
    yield one
    one.control("stop")


@pytest.fixture(scope="module")
def load(cluster: Cluster) -> Iterator[Load]:
    with Load(cluster) as one:
        yield one


@pytest.fixture(scope="module")
def msharefs(cluster: Cluster) -> None:
    """Library and mount, as the role has them."""
    mount = {"backend": "simulated", "mode": "1770", "group": "mshare", "create_group": True}
    tasks = [{"dbmem.mshare.mshare_runtime": {"preload": True}}, {"dbmem.mshare.mshare_mount": mount}]
    cluster.host.play(tasks).succeeded()


@pytest.fixture
def pool() -> Iterator[None]:
    with huge_pages.reserved(POOL_PAGES):
        yield


def traces(cluster: Cluster) -> list[str]:
    """All that there is on the host but the server's own comings and goings."""
    return [line for line in cluster.host.snapshot() if not line.startswith("process postgres: ")]


def playbook(cluster: Cluster, *flags: str, **variables: Any) -> Run:
    """The role with all that it pulls in."""
    wanted = {"restart_ok": True, "probes": PROBES, **variables}
    prefixed = {f"mshare_postgresql_{name}": value for name, value in wanted.items()}
    # A kernel with mshare is not asked for: the simulated backend has to be, by name.
    # The server's user has to read what root writes, whatever root's umask is.
    umask = {"thp": "077", "hugetlb": "027"}.get(str(variables.get("pages")), "022")
    return cluster.host.playbook(
        PLAYBOOK, *flags, variables={"mshare_msharefs_backend": "simulated", **prefixed}, umask=umask
    )


def task(**options: Any) -> Task:
    """The module alone, where the rest is there already."""
    wanted = {"restart": True, "probes": PROBES, "backend": "simulated", **options}
    return {"name": MOVE, "dbmem.mshare.mshare_postgresql": wanted}


SCAN = "SELECT pg_prewarm('pgbench_accounts'), sum(abalance) FROM pgbench_accounts"


def test_a_cluster_of_patroni_s_is_left_alone_before_anything_is_installed(cluster: Cluster) -> None:
    cluster.host.do("mkdir", "-p", "/etc/patroni")
    configuration = cluster.host.inside("/etc/patroni/15-main.yml")
    configuration.write_text(f"scope: 15-main\npostgresql:\n  data_dir: {cluster.data}\n")
    files, before, pid = cluster.files(), traces(cluster), cluster.pid
    run = playbook(cluster)
    assert "PostgreSQL cluster 15-main is managed by Patroni (/etc/patroni/15-main.yml names" in run.said
    assert run.recap["changed"] == 0
    assert (cluster.files(), traces(cluster), cluster.pid) == (files, before, pid)
    cluster.host.do("rm", "-r", "/etc/patroni")


def test_a_check_run_says_what_it_would_do_and_does_nothing(cluster: Cluster) -> None:
    files, before, pid = cluster.files(), traces(cluster), cluster.pid
    moved = playbook(cluster, "--check", "--diff").succeeded()[MOVE]
    assert moved["changed"]
    assert any("restart PostgreSQL cluster 15-main" in action for action in moved["actions"])
    (environment,) = (pair for pair in moved["diff"] if pair["after_header"].endswith("/environment"))
    assert "MSHARE_PRELOAD_PAGES = 'thp'\n" in environment["after"]
    assert "MSHARE_PRELOAD_PAGES = 'thp'" not in environment["before"]
    assert (cluster.files(), traces(cluster), cluster.pid) == (files, before, pid)


def test_nothing_is_restarted_unless_allowed(cluster: Cluster) -> None:
    files, pid = cluster.files(), cluster.pid
    first, second = (playbook(cluster, restart_ok=False).succeeded() for __ in range(2))
    assert first[MOVE]["changed"]
    assert second.recap["changed"] == 0
    for run in (first, second):
        assert run[MOVE]["restart_required"]
        assert run[MOVE]["restart_reason"]
        assert not run[MOVE]["restarted"]
    removed = {"name": "removed", "dbmem.mshare.mshare_runtime": {"state": "absent"}}
    said = cluster.host.play([removed]).said
    assert "PostgreSQL cluster 15-main is started with the library in" in said
    assert cluster.pid == pid
    assert not PLACED["thp"](mapped(cluster.host, pid))
    assert cluster.host.play([task(state="absent")]).succeeded()[MOVE]["restarted"] is False
    assert (cluster.files(), cluster.pid) == (files, pid)


@pytest.mark.parametrize("pages", ["thp", "4k", "hugetlb", "native"])
def test_there_and_back(cluster: Cluster, load: Load, request: pytest.FixtureRequest, pages: str) -> None:
    if pages in ("hugetlb", "native"):
        request.getfixturevalue("pool")
    files, dump = cluster.files(), cluster.dump()
    moved = playbook(cluster, pages=pages).succeeded()[MOVE]
    assert (moved["restarted"], moved["restart_required"]) == (True, False)
    assert moved.returned == names(documented("postgresql"), ON_SUCCESS)
    assert cluster.dump() == dump
    require_costs(moved["page_tables"], pages)
    # Only who makes regions needs the group.
    assert ("mshare" in groups(cluster)) == (pages == "4k")
    with cluster.backend(SCAN) as one, cluster.backend(SCAN) as two, cluster.backend(SCAN) as three:
        for pid in (cluster.pid, one, two, three):
            assert PLACED[pages](mapped(cluster.host, pid))
        looks = [task(pages=pages), {"name": "survey", "dbmem.mshare.mshare_survey": {}}]
        if pages == "4k":
            looks.append(validate(cluster))
        looked = cluster.host.play(looks).succeeded()
        require_survey(cluster, looked, pages)
        if pages == "4k":
            require_savings(cluster, looked, [one, two, three])
    assert (looked[MOVE]["changed"], looked[MOVE]["restart_required"]) == (False, False)

    # Once more with all of the role.
    run = playbook(cluster, state="absent") if pages == "thp" else cluster.host.play([task(state="absent")])
    assert run.succeeded()[MOVE]["restarted"]
    assert cluster.dump() == dump
    assert cluster.files() == files
    assert "mshare" not in groups(cluster)
    with cluster.backend(SCAN) as pid:
        assert "libmshare" not in cluster.host.inside(f"/proc/{pid}/maps").read_text()
    assert load.acknowledged() <= load.kept()
    assert len(load.acknowledged()) > 10


@pytest.mark.usefixtures("msharefs")
def test_a_region_that_is_there(cluster: Cluster) -> None:
    """It belongs to somebody else, and stays when the server goes."""
    size_bytes = 2 * BUFFERS_BYTES
    made = {"name": "sga", "size": str(size_bytes), "mode": "0660", "group": "mshare", "prefault": True}
    run = cluster.host.play(
        [
            {"name": "made", "dbmem.mshare.mshare_region": made},
            task(pages="4k", region="sga"),
            {**task(pages="4k", region="sga"), "name": "again"},
        ]
    ).succeeded()
    assert run[MOVE]["segment"]["region"] == "sga"
    assert not run["again"]["changed"]
    dump = cluster.dump()
    with cluster.backend(SCAN) as pid:
        for one in (cluster.pid, pid):
            assert mapped(cluster.host, one).path == "/run/msharefs/sga"
    # What was in it is of no use to the next server: it begins with zeroes.
    cluster.control("restart")
    assert cluster.dump() == dump
    gone = {"name": "gone", "dbmem.mshare.mshare_region": {"name": "sga", "state": "absent"}}
    cluster.host.play([task(state="absent"), gone]).succeeded()
    assert cluster.dump() == dump


def groups(cluster: Cluster) -> list[str]:
    return cluster.host.do("id", "-Gn", "postgres").split()


def require_costs(costs: dict[str, Any], pages: str) -> None:
    """Before and after, of as many connections that touched as much."""
    before, after = costs["before"], costs["after"]
    for cost in (before, after):
        assert cost["kind"] == "measured"
        assert cost["connections"] == PROBES
        assert cost["span_bytes"] > BUFFERS_BYTES
        assert cost["sum_bytes"] // PROBES == cost["average_bytes"]
    assert before["span_bytes"] == after["span_bytes"]
    saved_bytes = before["average_bytes"] - after["average_bytes"]
    # A leaf table per 2 MiB. Simulated, everybody has tables of his own.
    expected_bytes = 0 if pages == "4k" else BUFFERS_BYTES // (2 * MIB) * 4 * KIB
    assert saved_bytes == pytest.approx(expected_bytes, abs=64 * KIB)


def require_survey(cluster: Cluster, run: Run, pages: str) -> None:
    instances = run["survey"]["survey"]["instances"]
    (found,) = (one for one in instances if cluster.pid in one["pids"])
    preload, requested = (None, "on") if pages == "native" else (pages, "off")
    assert (found["kind"], found["preload"], found["huge_pages_requested"]) == (
        "postgresql",
        preload,
        requested,
    )
    segment = max(found["segments"], key=lambda one: one["size_bytes"])
    assert segment["kind"] == KINDS[pages]
    assert segment["congruent_2mib"]
    assert segment["region"] == (region(cluster) if pages == "4k" else None)


def region(cluster: Cluster) -> str:
    return Path(mapped(cluster.host, cluster.pid).path).name


def validate(cluster: Cluster) -> Task:
    savings = {"region": region(cluster), "min_saving_percent": 50}
    return {"name": "savings", "dbmem.mshare.mshare_savings": savings}


def require_savings(cluster: Cluster, run: Run, backends: list[int]) -> None:
    """Backends count as the region's clients, with the page tables that they have."""
    savings = run["savings"]
    assert savings["passed"]
    assert savings["clients"]["attached"] >= len(backends)
    status = cluster.host.inside(f"/proc/{backends[0]}/status").read_text()
    own_bytes = int(re.findall(r"VmPTE:\s+(\d+) kB", status)[0]) * KIB
    without = savings["figures"]["without_sharing"]
    assert without["kind"] == "measured"
    assert without["value"] > len(backends) * own_bytes / 2
    assert any("postgres" in line for line in savings["summary"])


@pytest.mark.usefixtures("msharefs")
def test_a_segment_elsewhere_is_found_out_and_everything_put_back(cluster: Cluster) -> None:
    files, dump = cluster.files(), cluster.dump()
    run = cluster.host.play([task(threshold="1TiB")])
    assert "does not begin where huge pages can be mapped" in run.said
    assert "its files were restored, and it runs with them again" in run.said
    assert cluster.files() == files
    assert cluster.dump() == dump
    with cluster.backend() as pid:
        assert "libmshare" not in cluster.host.inside(f"/proc/{pid}/maps").read_text()


@pytest.mark.usefixtures("msharefs")
def test_a_server_that_does_not_start_is_told(cluster: Cluster) -> None:
    files = cluster.files()
    # Nobody knows that before it is started.
    cluster.set("wrong.conf", unix_socket_directories="/no/such/directory")
    run = cluster.host.play([task()])
    assert "/no/such/directory" in run.said
    assert "does not start with them either" in run.said
    cluster.unset("wrong.conf")
    cluster.control("start")
    assert cluster.files() == files


@pytest.mark.usefixtures("msharefs")
def test_what_somebody_has_changed_since_its_start_would_keep_it_down(cluster: Cluster) -> None:
    """It is found out before the server is stopped, also in a check run."""
    cases = {
        'could not access file "no_such_library"': (
            "conf.d/a.conf",
            "shared_preload_libraries = 'no_such_library'",
        ),
        'invalid value for parameter "work_mem"': ("conf.d/a.conf", "work_mem = much"),
        "syntax error in file": ("conf.d/a.conf", "this is ' none"),
        "start.conf in /etc/postgresql/15/main is disabled": ("start.conf", "disabled"),
        "pg_ctlcluster says: Error: invalid line 1 in": ("environment", "LD_PRELOAD = /not/quoted.so"),
    }
    for sentence, (name, line) in cases.items():
        path = cluster.host.inside(f"{cluster.configuration}/{name}")
        text = path.read_text() if path.exists() else None
        path.write_text(f"{line}\n")
        files, pid = cluster.files(), cluster.pid
        run = cluster.host.play([task()], *(["--check"] if name == "start.conf" else []))
        assert run.recap["failures"] == 1, sentence
        assert "PostgreSQL cluster 15-main runs, but would not start again (" in run.said
        assert sentence in run.said
        assert (cluster.files(), cluster.pid) == (files, pid)
        path.unlink() if text is None else path.write_text(text)


REFUSED = {
    "ask for backend simulated by name (mshare_msharefs_backend)": {"pages": "4k", "backend": "auto"},
    "there is no PostgreSQL cluster 9.6/* on this host, which has 15/main": {"version": "9.6"},
    "a region keeps the pages that it was created with": {"region": "sga"},
    "region nowhere on the msharefs at /run/msharefs is missing": {"pages": "4k", "region": "nowhere"},
    "threshold 'much' is not a size": {"threshold": "much"},
    "huge pages of 2 MiB, but this host has 0 free; raise": {"pages": "hugetlb"},
    "huge pages of 2 MiB, but this host has 0 free, so nothing was changed; reserve": {"pages": "native"},
    "this kernel has no pool of huge pages of 4 MiB; it has:": {"pages": "native", "page_size": "4MiB"},
    "page_size 2MiB only takes effect with pages native": {"page_size": "2MiB"},
    "/no/library is missing on this host": {"library": "/no/library"},
}


@pytest.mark.usefixtures("msharefs")
def test_what_was_lost_is_told(cluster: Cluster) -> None:
    """Somebody else restarts the server without the library; the next run says since when what is gone."""
    files = cluster.files()
    assert cluster.host.play([task()]).succeeded()[MOVE]["lost"] is None
    verified, environment = cluster.pid, cluster.host.inside(f"{cluster.configuration}/environment")
    text = environment.read_text()
    environment.write_text("")
    cluster.control("restart")
    environment.write_text(text)
    again = cluster.host.play([task(restart=False)]).succeeded()[MOVE]
    assert f"verified with pages thp in postmaster {verified}; since then" in again["lost"]
    assert any(again["lost"] in line for line in again["summary"])
    assert not again["changed"]
    assert cluster.host.play([task()]).succeeded()[MOVE]["lost"] is None
    cluster.host.play([task(state="absent")]).succeeded()
    assert cluster.files() == files


@pytest.mark.usefixtures("msharefs")
def test_what_a_server_preloads_already_stays(cluster: Cluster) -> None:
    """Debian's jemalloc, in the file that says what the server is started with."""
    jemalloc = next(iter(glob("/usr/lib/*/libjemalloc.so.2")), None)
    if jemalloc is None:
        pytest.skip("libjemalloc2 is not installed")
    environment = cluster.host.inside(f"{cluster.configuration}/environment")
    text = environment.read_text()
    environment.write_text(f"{text}LD_PRELOAD = '{jemalloc}'\n")
    cluster.control("restart")
    files = cluster.files()
    cluster.host.play([task()]).succeeded()
    assert PLACED["thp"](mapped(cluster.host, cluster.pid))
    maps = cluster.host.inside(f"/proc/{cluster.pid}/maps").read_text()
    assert jemalloc in maps
    assert "libmshare-preload.so" in maps
    cluster.host.play([task(state="absent")]).succeeded()
    maps = cluster.host.inside(f"/proc/{cluster.pid}/maps").read_text()
    assert jemalloc in maps
    assert "libmshare" not in maps
    assert cluster.files() == files
    environment.write_text(text)
    cluster.control("restart")


@pytest.mark.usefixtures("msharefs")
def test_a_library_that_a_server_has_mapped_stays(cluster: Cluster) -> None:
    """Its files are back already, and it was not restarted: it runs with the library all the same."""
    cluster.host.play([task()]).succeeded()
    cluster.host.play([task(state="absent", restart=False)]).succeeded()
    before = left_behind(cluster)
    run = cluster.host.playbook("dbmem.mshare.teardown")
    assert re.search(r"libmshare-preload\.so .*is mapped by", run.said)
    assert run.recap["changed"] == 0
    assert left_behind(cluster) == before
    cluster.host.play([task(state="absent")]).succeeded()


@pytest.mark.usefixtures("msharefs")
def test_refusals(cluster: Cluster) -> None:
    files, pid = cluster.files(), cluster.pid
    tasks = [{**task(**options), "name": said, "ignore_errors": True} for said, options in REFUSED.items()]
    # One of them is that the pool has nothing: no other test may fill it meanwhile.
    with huge_pages.none():
        run = cluster.host.play(tasks).succeeded()
    for said in REFUSED:
        assert said in run[said]["msg"]
    assert (cluster.files(), cluster.pid) == (files, pid)


@pytest.mark.usefixtures("msharefs")
def test_huge_pages_asked_for_elsewhere(cluster: Cluster) -> None:
    cluster.sql("ALTER SYSTEM SET huge_pages = 'on'")
    assert "because of postgresql.auto.conf" in cluster.host.play([task()]).said
    cluster.sql("ALTER SYSTEM RESET huge_pages")


@pytest.mark.usefixtures("pool")
def test_native_pages_and_what_stands_in_their_way(cluster: Cluster) -> None:
    """With sysv it would not start; what `try` came to is told; without probes it is verified as well."""
    files, pid = cluster.files(), cluster.pid
    cluster.set("wish.conf", shared_memory_type="sysv")
    assert (
        "does not start with huge_pages = on and shared_memory_type = sysv"
        in cluster.host.play([task(pages="native")]).said
    )
    cluster.set("wish.conf", huge_pages="try")
    checked = cluster.host.play([task(pages="native")], "--check", "--diff").succeeded()[MOVE]
    assert checked["huge_pages"] == {
        "setting": "try",
        "source": "wish.conf",
        "fell_back": True,
        "status": None,
    }
    assert any("huge_pages is try (wish.conf), but" in line for line in checked["summary"])
    assert any("huge_pages = on\n" in pair["after"] for pair in checked["diff"])
    cluster.unset("wish.conf")
    assert (cluster.files(), cluster.pid) == (files, pid)
    moved = cluster.host.play([task(pages="native", probes=0)]).succeeded()[MOVE]
    assert (moved["restarted"], moved["segment"]["page_bytes"]) == (True, 2 * MIB)
    assert PLACED["native"](mapped(cluster.host, cluster.pid))
    again = cluster.host.play([task(pages="native")], "--check").succeeded()[MOVE]
    assert (again["changed"], again["restart_required"]) == (False, False)
    # Its files want no huge pages, so that it is not where it was until it is restarted.
    back = cluster.host.play([task(state="absent", restart=False)]).succeeded()[MOVE]
    assert (back["restart_required"], cluster.files()) == (True, files)
    assert cluster.host.play([task(state="absent")]).succeeded()[MOVE]["restarted"]
    assert not PLACED["native"](mapped(cluster.host, cluster.pid))


@pytest.mark.usefixtures("msharefs")
def test_a_server_that_lets_nobody_in(cluster: Cluster) -> None:
    """Nothing is done that could not be measured; without probes it is not measured, and done."""
    files, rules = cluster.files(), cluster.host.inside(f"{cluster.configuration}/pg_hba.conf")
    rules_text, pid = rules.read_text(), cluster.pid
    rules.write_text("local all all reject\n")
    cluster.control("reload")
    run = cluster.host.play([task()])
    assert "got no answer to `SELECT pg_backend_pid()`" in run.said
    assert "pg_hba.conf rejects connection" in run.said
    assert cluster.pid == pid
    rules.write_text(rules_text)
    cluster.control("reload")
    assert cluster.files() == files


def test_a_second_cluster_has_to_be_told_apart(cluster: Cluster) -> None:
    cluster.host.do("mkdir", "/etc/postgresql/15/other")
    cluster.host.do("touch", "/etc/postgresql/15/other/postgresql.conf")
    assert "2 PostgreSQL clusters (15/main, 15/other)" in cluster.host.play([task()]).said
    cluster.host.do("rm", "-r", "/etc/postgresql/15/other")


def test_nothing_is_left(cluster: Cluster) -> None:
    """After the tests above, teardown takes away what they share."""
    cluster.host.playbook("dbmem.mshare.teardown").succeeded()
    assert not [line for line in left_behind(cluster) if "mshare" in line]


def left_behind(cluster: Cluster) -> list[str]:
    """All that there is on the host but processes: the load's come and go."""
    return [line for line in cluster.host.snapshot() if not line.startswith("process ")]
