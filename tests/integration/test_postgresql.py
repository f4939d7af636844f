# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role postgresql: a Debian cluster with load on it goes onto a region or huge pages, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.clusters import Cluster, Load, Mapped, mapped, missing
from integration.hosts import Host, Run
from mshare.units import GIB, KIB, MIB

BUFFERS_BYTES = 128 * MIB
PROBES = 5
PLAYBOOK = "dbmem.mshare.postgresql"
MOVE = "Put PostgreSQL where it should be"
RESTART = {"mshare_postgresql_restart_ok": True, "mshare_postgresql_probes": PROBES}
BACK = {**RESTART, "mshare_postgresql_state": "absent"}
POOL = Path("/proc/sys/vm/nr_hugepages")
POOL_PAGES = 100

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def cluster(host: Host) -> Iterator[Cluster]:
    # Whoever runs the server has to reach the files of the load.
    host.scratch.chmod(0o755)
    one = Cluster(host)
    one.create(shared_buffers=f"{BUFFERS_BYTES // MIB}MB")
    one.fill(1)
    host.playbook("dbmem.mshare.postgresql", "--check").succeeded()
    yield one
    one.control("stop")


@pytest.fixture(scope="module")
def load(cluster: Cluster) -> Iterator[Load]:
    with Load(cluster, cluster.host.scratch) as one:
        yield one


@pytest.fixture(scope="module")
def pool() -> Iterator[None]:
    """Huge pages in the host's pool."""
    before = POOL.read_text()
    POOL.write_text(str(int(before) + POOL_PAGES))
    if int(POOL.read_text()) < int(before) + POOL_PAGES:
        POOL.write_text(before)
        pytest.skip(f"no {POOL_PAGES} huge pages can be reserved on this machine")
    yield
    POOL.write_text(before)


def move(cluster: Cluster, *flags: str, **variables: Any) -> Run:
    names = {f"mshare_postgresql_{name}": value for name, value in variables.items()}
    return cluster.host.playbook(PLAYBOOK, *flags, variables={**RESTART, **names})


def back(cluster: Cluster) -> Run:
    return cluster.host.playbook(PLAYBOOK, variables=BACK).succeeded()


def is_thp(one: Mapped) -> bool:
    return one.address % (2 * MIB) == 0 and one.huge_bytes >= 0.95 * one.size_bytes


def is_hugetlb(one: Mapped) -> bool:
    return one.address % GIB == 0 and "hugepage" in one.path


def is_in_region(one: Mapped) -> bool:
    return one.path.startswith("/run/msharefs/preload.")


PLACED = {"thp": is_thp, "hugetlb": is_hugetlb, "4k": is_in_region}
SCAN = "SELECT pg_prewarm('pgbench_accounts'), sum(abalance) FROM pgbench_accounts"


def test_a_check_run_says_what_it_would_do_and_does_nothing(cluster: Cluster) -> None:
    files, traces, pid = cluster.files(), cluster.host.snapshot(), cluster.pid
    moved = move(cluster, "--check", "--diff").succeeded()[MOVE]
    assert moved["changed"]
    assert any("restart PostgreSQL cluster 15-main" in action for action in moved["actions"])
    (environment,) = (lines for path, lines in moved["diff"]["after"].items() if path.endswith("/environment"))
    assert "MSHARE_PRELOAD_PAGES = 'thp'" in environment
    assert "MSHARE_PRELOAD_PAGES = 'thp'" not in str(moved["diff"]["before"])
    assert (cluster.files(), cluster.host.snapshot(), cluster.pid) == (files, traces, pid)


def test_nothing_is_restarted_unless_allowed(cluster: Cluster) -> None:
    files, pid = cluster.files(), cluster.pid
    first, second = (move(cluster, restart_ok=False).succeeded() for __ in range(2))
    assert first[MOVE]["changed"]
    assert second.recap["changed"] == 0
    for run in (first, second):
        assert run[MOVE]["restart_required"]
        assert run[MOVE]["restart_reason"]
        assert not run[MOVE]["restarted"]
    assert cluster.pid == pid
    assert not is_thp(mapped(cluster.host, pid))
    assert back(cluster)[MOVE]["restarted"] is False
    assert (cluster.files(), cluster.pid) == (files, pid)


@pytest.mark.parametrize("pages", ["thp", "4k", "hugetlb"])
def test_there_and_back(cluster: Cluster, load: Load, request: pytest.FixtureRequest, pages: str) -> None:
    if pages == "hugetlb":
        request.getfixturevalue("pool")
    files, dump = cluster.files(), cluster.dump()
    run = move(cluster, pages=pages).succeeded()
    moved = run[MOVE]
    assert moved["restarted"]
    assert not moved["restart_required"]
    assert cluster.dump() == dump
    assert PLACED[pages](mapped(cluster.host, cluster.pid))
    with cluster.backend(SCAN) as backend:
        assert PLACED[pages](mapped(cluster.host, backend))
    require_costs(moved["page_tables"], pages)
    require_survey(cluster, pages)
    if pages == "4k":
        require_savings(cluster)

    assert move(cluster, pages=pages).succeeded().recap["changed"] == 0

    returned = back(cluster)[MOVE]
    assert returned["restarted"]
    assert cluster.dump() == dump
    assert cluster.files() == files
    with cluster.backend(SCAN) as backend:
        assert "libmshare" not in cluster.host.inside(f"/proc/{backend}/maps").read_text()
    assert load.acknowledged() <= load.kept()
    assert len(load.acknowledged()) > 10


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


def require_survey(cluster: Cluster, pages: str) -> None:
    run = cluster.host.play([{"name": "survey", "dbmem.mshare.mshare_survey": {}}]).succeeded()
    instances = run["survey"]["survey"]["instances"]
    (found,) = (one for one in instances if cluster.pid in one["pids"])
    assert (found["kind"], found["preload"], found["huge_pages_requested"]) == ("postgresql", pages, "off")
    segment = max(found["segments"], key=lambda one: one["size_bytes"])
    assert segment["kind"] == {"thp": "anonymous", "hugetlb": "hugetlb", "4k": "msharefs"}[pages]
    assert (segment["region"] is not None) == (pages == "4k")
    if segment["region"]:
        assert cluster.host.inside(f"/run/msharefs/{segment['region']}").exists()
    assert segment["congruent_2mib"]


def require_savings(cluster: Cluster) -> None:
    """Backends count as the region's clients."""
    name = Path(mapped(cluster.host, cluster.pid).path).name
    validate = {"name": "savings", "dbmem.mshare.mshare_savings": {"region": name, "min_saving_percent": 50}}
    with cluster.backend(SCAN), cluster.backend(SCAN), cluster.backend(SCAN), cluster.backend(SCAN) as last:
        tables_bytes = re.findall(r"VmPTE:\s+(\d+) kB", cluster.host.inside(f"/proc/{last}/status").read_text())
        savings = cluster.host.play([validate]).succeeded()["savings"]
    assert savings["passed"]
    assert savings["clients"]["attached"] >= 4
    figures = savings["figures"]
    assert figures["without_sharing"]["kind"] == "measured"
    assert figures["without_sharing"]["value"] > 3 * int(tables_bytes[0]) * KIB / 2
    assert any("postgres" in line for line in savings["summary"])


def test_a_segment_elsewhere_is_found_out_and_everything_put_back(cluster: Cluster) -> None:
    files, dump = cluster.files(), cluster.dump()
    run = move(cluster, threshold="1TiB")
    assert "does not begin where huge pages can be mapped" in run.said
    assert "its files are as they were and it runs with them again" in run.said
    assert cluster.files() == files
    assert cluster.dump() == dump
    with cluster.backend() as backend:
        assert "libmshare" not in cluster.host.inside(f"/proc/{backend}/maps").read_text()


def test_a_server_that_does_not_start_is_told(cluster: Cluster) -> None:
    files = cluster.files()
    cluster.set("wrong.conf", shared_preload_libraries="no_such_library")
    run = move(cluster)
    assert "no_such_library" in run.said
    assert "does not start with them either" in run.said
    cluster.unset("wrong.conf")
    cluster.control("start")
    assert cluster.files() == files


def refused(cluster: Cluster, sentence: str, **variables: Any) -> None:
    files, pid = cluster.files(), cluster.pid
    assert sentence in move(cluster, **variables).said
    assert (cluster.files(), cluster.pid) == (files, pid)


def test_huge_pages_asked_for_elsewhere(cluster: Cluster) -> None:
    cluster.sql("ALTER SYSTEM SET huge_pages = 'on'")
    refused(cluster, "because of postgresql.auto.conf")
    cluster.sql("ALTER SYSTEM RESET huge_pages")


def test_a_pool_that_is_too_small(cluster: Cluster) -> None:
    refused(cluster, "huge pages of 2 MiB, and", pages="hugetlb")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"version": "9.6"}, "there is no PostgreSQL cluster 9.6/* on this host, which has 15/main"),
        ({"region": "sga"}, "which needs no region"),
        ({"pages": "4k", "region": "nowhere"}, "region nowhere is not on the msharefs"),
        ({"threshold": "much"}, "threshold 'much' is not a size"),
    ],
)
def test_refusals(cluster: Cluster, variables: dict[str, Any], sentence: str) -> None:
    refused(cluster, sentence, **variables)


def test_nothing_is_left(cluster: Cluster) -> None:
    """After the tests above, teardown takes away what they share."""
    cluster.host.playbook("dbmem.mshare.teardown").succeeded()
    assert not [line for line in cluster.host.snapshot() if "mshare" in line and "process" not in line]
