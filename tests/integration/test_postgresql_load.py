# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL on regions and huge pages: load, crashes and restarts, and not a row lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from integration.clusters import PLACED, Cluster, mapped, missing
from integration.hosts import Host, eventually
from mshare.units import MIB
from rig import huge_pages

BUFFERS_BYTES = 160 * MIB
POOL_PAGES = 110
CONNECTIONS = 200
SCAN = "SELECT sum(abalance) FROM pgbench_accounts"
# What pgbench moves between its tables sums up to the same in each.
SUMS = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""
PARALLEL = (
    "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;"
    " SET min_parallel_table_scan_size = 0; "
)

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@dataclass(frozen=True)
class Placed:
    """A cluster whose memory lies somewhere."""

    cluster: Cluster
    pages: str

    def require(self) -> None:
        """Postmaster and backend have it where it should be, and everything is there."""
        sums = set(self.cluster.sql(SUMS).split("|"))
        assert len(sums) == 1
        with self.cluster.backend(f"SELECT pg_prewarm('pgbench_accounts'); {SCAN}") as pid:
            for one in (self.cluster.pid, pid):
                assert PLACED[self.pages](mapped(self.cluster.host, one))

    def regions(self) -> list[str]:
        return [path.name for path in self.cluster.host.inside("/run/msharefs").glob("preload.*")]


@pytest.fixture(scope="module")
def cluster(host: Host) -> Iterator[Cluster]:
    one = Cluster(host)
    one.create(shared_buffers=f"{BUFFERS_BYTES // MIB}MB", max_connections=str(CONNECTIONS + 20))
    one.fill(1)
    host.play(
        [
            {"dbmem.mshare.mshare_runtime": {"preload": True}},
            {"dbmem.mshare.mshare_mount": {"backend": "simulated", "group": "mshare", "create_group": True}},
        ]
    ).succeeded()
    yield one
    one.control("stop")


@pytest.fixture(
    scope="module",
    params=[("thp", "mmap"), ("thp", "sysv"), ("4k", "mmap"), ("4k", "sysv"), ("hugetlb", "mmap")],
    ids="-".join,
)
def placed(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Placed]:
    pages, memory = request.param
    with huge_pages.reserved(POOL_PAGES) if pages == "hugetlb" else nullcontext():
        # Another kind of memory is the administrator's matter, and so is the restart for it.
        cluster.set("memory.conf", shared_memory_type=memory)
        cluster.control("restart")
        wanted = {"pages": pages, "restart": True, "probes": 0}
        if pages == "4k":
            # A real server gets the simulated backend only when it is asked for by name.
            wanted["backend"] = "simulated"
        cluster.host.play([{"dbmem.mshare.mshare_postgresql": wanted}]).succeeded()
        assert cluster.sql("SHOW shared_memory_type") == memory
        yield Placed(cluster, pages)
        if pages == "hugetlb":
            # Its pages are given back before the pool is.
            cluster.host.play([{"dbmem.mshare.mshare_postgresql": {**wanted, "state": "absent"}}]).succeeded()


def pgbench(placed: Placed, *words: str) -> None:
    said = placed.cluster.run("pgbench", "-n", *words)
    assert re.search(r"number of transactions actually processed: [1-9]", said), said
    assert "number of failed transactions: 0" in said


def test_reading_and_writing(placed: Placed) -> None:
    pgbench(placed, "-S", "-c", "8", "-t", "200")
    pgbench(placed, "-c", "4", "-t", "50")
    placed.require()


def test_parallel_scans(placed: Placed) -> None:
    alone = placed.cluster.sql(SCAN)
    assert placed.cluster.sql(PARALLEL + SCAN).split("\n")[-1] == alone
    assert re.search(r"Workers Launched: [12]", placed.cluster.sql(PARALLEL + f"EXPLAIN (ANALYZE) {SCAN}"))


def test_many_connections_that_read_everything(placed: Placed) -> None:
    placed.cluster.host.inside("/dev/shm/scan.sql").write_text(SCAN + ";\n")
    pgbench(placed, "-f", "/dev/shm/scan.sql", "-c", str(CONNECTIONS), "-j", "2", "-t", "1")
    placed.require()


def test_a_killed_backend(placed: Placed) -> None:
    """The postmaster takes its shared memory anew, and nothing of the old stays."""
    cluster, postmaster = placed.cluster, placed.cluster.pid
    before = cluster.log().count("reinitializing")
    with cluster.backend(SCAN) as pid:
        cluster.host.kill(pid)
    eventually(lambda: cluster.log().count("reinitializing") > before, "the end of all backends")
    eventually(lambda: cluster.log().rstrip().endswith("ready to accept connections"), "the crash restart")
    assert cluster.pid == postmaster
    placed.require()
    assert len(placed.regions()) == (placed.pages == "4k")


def test_a_killed_postmaster(placed: Placed) -> None:
    cluster = placed.cluster
    pgbench(placed, "-c", "4", "-t", "20")
    cluster.host.kill(cluster.pid)
    eventually(
        lambda: not any("postgres" in line for line in cluster.host.processes().values()),
        "the end of all backends",
    )
    cluster.control("start")
    placed.require()
    assert len(placed.regions()) == (placed.pages == "4k")


def test_restart_and_reload(placed: Placed) -> None:
    cluster, postmaster = placed.cluster, placed.cluster.pid
    cluster.control("reload")
    assert cluster.pid == postmaster
    cluster.control("restart")
    assert cluster.pid != postmaster
    placed.require()
    assert len(placed.regions()) == (placed.pages == "4k")


def test_dump_and_restore(placed: Placed) -> None:
    cluster, dump = placed.cluster, placed.cluster.dump()
    cluster.run("createdb", "--template=template0", "restored")
    cluster.run("psql", "-Xqd", "restored", "-v", "ON_ERROR_STOP=1", said=dump)
    assert cluster.dump("restored") == dump
    # Every heap page and index is as PostgreSQL wants it, in what was restored and in what was under load.
    for database in ("restored", "postgres"):
        cluster.run("pg_amcheck", "--install-missing", "--heapallindexed", database)
    cluster.sql("DROP EXTENSION amcheck")
    cluster.run("dropdb", "restored")


def test_huge_pages_asked_for_by_the_server_as_well(placed: Placed) -> None:
    """The default, `try`, without the setting of ours."""
    cluster = placed.cluster
    cluster.set("zzz-tests.conf", huge_pages="try")
    try:
        # It would take what another test has reserved.
        with nullcontext() if placed.pages == "hugetlb" else huge_pages.none():
            cluster.control("restart")
        assert cluster.sql("SHOW huge_pages") == "try"
        placed.require()
    finally:
        cluster.unset("zzz-tests.conf")
