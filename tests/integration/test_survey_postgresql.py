# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL: the survey finds it and what its page tables cost, the plan says what would help."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mshare.plan.facts import Instance, from_survey
from mshare.plan.plan import plan
from mshare.survey.record import InstanceRecord
from mshare.survey.survey import survey
from mshare.units import GIB, KIB, MIB
from rig import postgresql
from rig.world import World, eventually

BUFFERS_BYTES = 512 * MIB
SCALE = 3
BACKENDS = 30
MAX_CONNECTIONS = 120
PORT = 5497
CLOSE = 0.01

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or postgresql.missing() is not None,
    reason=postgresql.missing() or "other users' page tables are root's to read",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    buffers = f"{BUFFERS_BYTES // MIB}MB"
    with postgresql.server(buffers, max_connections=MAX_CONNECTIONS, port=PORT) as server:
        server.fill(SCALE)
        with server.backends(BACKENDS):
            yield server


@pytest.fixture(scope="module")
def sampled(server: postgresql.Server, world: World) -> dict[str, Any]:
    return world.json("survey")


def of(surveyed: dict[str, Any], server: postgresql.Server) -> dict[str, Any]:
    (found,) = (instance for instance in surveyed["instances"] if server.pid in instance["pids"])
    return found


def undisturbed(
    survey_now: Callable[[], dict[str, Any]], server: postgresql.Server, *read: Callable[[int], int]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """A survey, and what each of `read` sums up to over the server's processes.

    The server starts and ends processes of its own (autovacuum) whenever it likes. After a survey that listed
    one of those, both are made again.
    """
    for __ in range(20):
        surveyed = survey_now()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return surveyed, tuple(sum(map(one, of(surveyed, server)["pids"])) for one in read)
    raise AssertionError("20 surveys, and after each a process of the server had ended")


def segments(pid: int) -> Iterator[tuple[int, int]]:
    """Where a process has shared memory; a file that it maps, too, as glibc's gconv cache, is none."""
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        mapped = re.match(r"(\w+)-(\w+) ...s .* (/dev/zero \(deleted\)|/dev/shm/.*|/SYSV.*)$", line)
        if mapped:
            yield int(mapped[1], 16), int(mapped[2], 16)


def exhaustive_bytes(pid: int) -> int:
    """Page tables in a process's segments, from every single entry of its pagemap.

    Nothing of the library's own, which would agree with itself.
    """
    pages = set()
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for start, end in segments(pid):
            pagemap.seek(start // (4 * KIB) * 8)
            entries = memoryview(pagemap.read((end - start) // (4 * KIB) * 8)).cast("Q")
            # The two highest bits: present, or swapped.
            pages |= {start + index * 4 * KIB for index, entry in enumerate(entries) if entry >> 62}
    return 4 * KIB * sum(len({page // span for page in pages}) for span in (2 * MIB, GIB))


def vm_pte_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"^VmPTE:\s+(\d+) kB$", status, re.M)[0]) * KIB


def test_the_instance_is_named(server: postgresql.Server, sampled: dict[str, Any]) -> None:
    found = of(sampled, server)
    assert found["kind"] == "postgresql"
    assert found["data_directory"] == str(server.data_directory)
    assert found["port"] == PORT
    assert found["version"] is not None
    assert found["version"].split(".")[0] == server.version
    assert found["processes"] == len(found["pids"]) > BACKENDS
    assert found["processes_maximum"]["value"] == MAX_CONNECTIONS
    assert found["processes_maximum"]["source"]


def test_its_segment(server: postgresql.Server, sampled: dict[str, Any]) -> None:
    largest = max(of(sampled, server)["segments"], key=lambda segment: segment["size_bytes"])
    assert largest["kind"] == "anonymous"
    assert BUFFERS_BYTES < largest["size_bytes"] < 1.2 * BUFFERS_BYTES
    assert largest["page_bytes"] == 4 * KIB
    assert largest["processes"] > BACKENDS
    assert largest["huge_bytes"] == 0


def test_nothing_is_missing(sampled: dict[str, Any]) -> None:
    assert sampled["complete"]
    assert sampled["missing"] == []
    assert not sampled["method"]["exact"]


@pytest.mark.parametrize("options", [(), ("--exact",)], ids=["sampled", "exact"])
def test_page_tables_within_a_percent(
    server: postgresql.Server, world: World, options: tuple[str, ...]
) -> None:
    surveyed, (tables_bytes, segments_bytes) = undisturbed(
        lambda: world.json("survey", *options), server, vm_pte_bytes, exhaustive_bytes
    )
    tables = of(surveyed, server)["page_tables"]
    assert tables["sum_bytes"] == pytest.approx(tables_bytes, rel=CLOSE)
    assert tables["segments_bytes"] == pytest.approx(segments_bytes, rel=CLOSE)
    assert tables["segments_bytes"] + tables["remainder_bytes"] == tables["sum_bytes"]
    assert tables["kind"] == "measured"
    assert tables["segments_kind"] == ("measured" if options else "modelled")


@pytest.mark.usefixtures("server")
def test_people_read_it(world: World) -> None:
    said = world.ok("survey")
    assert f"postgresql {PORT}" in said
    assert "measured" in said
    assert "\x1b" not in said


def test_an_ordinary_user_gets_a_part_and_is_told(server: postgresql.Server, world: World) -> None:
    def survey_as_nobody() -> dict[str, Any]:
        done = world.run_as_nobody("--json", "survey")
        assert done.returncode == 0, done.stderr
        surveyed: dict[str, Any] = json.loads(done.stdout)
        return surveyed

    partial, (tables_bytes,) = undisturbed(survey_as_nobody, server, vm_pte_bytes)
    assert not partial["complete"]
    assert {missing["reason"] for missing in partial["missing"]}
    everyone = [pid for instance in partial["instances"] for pid in instance["pids"] if pid == server.pid]
    assert everyone == [server.pid]
    # What everyone may read is as good as root's.
    assert of(partial, server)["page_tables"]["sum_bytes"] == pytest.approx(tables_bytes, rel=CLOSE)
    assert "partial" in world.run_as_nobody("survey").stdout.lower()


def test_the_plan(server: postgresql.Server, world: World, sampled: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(sampled), encoding="utf-8")
    name = of(sampled, server)["name"]
    said = world.ok("plan", str(path), "--instance", name).lower()
    for word in ("hugetlb", "pool", "mshare", "huge_pages", str(MAX_CONNECTIONS)):
        assert word in said
    assert "projected" in said
    (planned,) = world.json("plan", str(path), "--instance", name)["instances"]
    assert planned["rows"]


PARALLEL = {
    "max_parallel_workers_per_gather": "2",
    "min_parallel_table_scan_size": "0",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "enable_mergejoin": "off",
    "enable_nestloop": "off",
    "work_mem": "64MB",
}
# Parallel Hash: the table is in dynamic shared memory; one of the processes then sleeps over a row.
JOIN = (
    "SELECT count(*) FROM big a JOIN big b ON a.id = b.id AND (a.v + b.v <> 4 OR pg_sleep(120) IS NOT NULL)"
)


def test_the_memory_of_a_parallel_query_is_of_its_processes_and_short_lived() -> None:
    with postgresql.server("64MB", port=PORT + 1, **PARALLEL) as database:
        with database.connect() as made:
            made.execute("CREATE UNLOGGED TABLE big AS SELECT g AS id, g AS v FROM generate_series(1, 2e5) g")
            made.execute("ANALYZE big")
        with contextlib.ExitStack() as opened:
            busy, other, *__ = [opened.enter_context(database.connect()) for __ in range(12)]
            surveyed: list[InstanceRecord] = []
            querying = threading.Thread(target=_until_cancelled, args=(busy,))
            querying.start()
            try:
                eventually(lambda: surveyed.append(_surveyed(database.pid)) or _of_the_query(surveyed[-1]))
            finally:
                other.execute("SELECT pg_cancel_backend(%s)", [busy.info.backend_pid])
                querying.join()
    found = surveyed[-1]
    (main,) = (segment for segment in found.segments if not segment.short_lived)
    dynamic = [segment for segment in found.segments if segment.short_lived]
    assert main.kind == "anonymous"
    assert main.processes >= found.processes - 1
    assert {segment.kind for segment in dynamic} == {"posix"}
    # What all backends have, and the postmaster has not, are the cumulative statistics.
    (planned,) = Instance.from_survey(found, None).segments
    assert planned.size_bytes == main.size_bytes


def test_a_server_with_a_colon_in_its_name_and_titles_that_stay() -> None:
    """Its own view of its processes says which of them are clients, however they are called."""
    settings = {
        "cluster_name": "shop: eu",
        "update_process_title": "off",
        "shared_memory_type": "sysv",
        "dynamic_shared_memory_type": "mmap",
    }
    with postgresql.server("64MB", port=PORT + 2, **settings) as database, contextlib.ExitStack() as opened:
        asking, *__ = [opened.enter_context(database.connect()) for __ in range(6)]
        row = asking.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).fetchone()
        whole = survey(threshold_bytes=1)
    (found,) = (one for one in whole.instances if database.pid in one.pids)
    # A worker of autovacuum may come and go meanwhile; it is a helper too.
    assert row == (6,)
    assert found.processes - found.helpers == 6
    (main,) = (segment for segment in found.segments if not segment.short_lived)
    assert (main.kind, found.settings["shared_memory_type"]) == ("sysv", "sysv")
    (one,) = plan(from_survey(replace(whole, instances=(found,)))).instances
    assert any("shared_memory_type = mmap first" in reason for reason in one.row("hugetlb_2m").reasons)


def _until_cancelled(connection: Any) -> None:
    import psycopg

    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute(JOIN)


def _surveyed(pid: int) -> InstanceRecord:
    (found,) = (one for one in survey(threshold_bytes=1).instances if pid in one.pids)
    return found


def _of_the_query(found: InstanceRecord) -> bool:
    """Whether the hash table is there: of the backend and its two workers, and not of the eleven connections
    that are idle."""
    own = [segment for segment in found.segments if segment.short_lived and segment.processes <= 3]
    return sum(segment.size_bytes for segment in own) >= 4 * MIB
