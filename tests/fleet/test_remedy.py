# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remedies on hosts with a systemd and two PostgreSQL 17 each: there, again, and back, through restarts.

It takes minutes (MSHARE_PROVE=1). The hosts have one pool of huge pages, which is the machine's: so
one host is changed at a time.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.world import World, name, world
from integration.hosts import Run, differences
from rig import huge_pages
from rig.hosts.base import PATRONI
from rig.hosts.fleet import missing_systemd

HOSTS = 3
EVERY = tuple(range(HOSTS))
PORTS = {"main": 5432, "second": 5433}
BUFFERS_MIB = 64
PLAN, APPLY = "Survey, plan, and check what would be done", "Apply it"
_DATA = "/var/lib/postgresql/17/main"
_SERVICE = "mshare-collapse@var-lib-postgresql-17-main.service"
_CREATE = """\
set -eu
pg_createcluster --port={port} 17 {cluster} -- --no-sync --locale=C.UTF-8 --encoding=UTF8
# As Debian's own settings for new clusters have it.
mkdir /etc/postgresql/17/{cluster}/conf.d
echo "include_dir = 'conf.d'" >>/etc/postgresql/17/{cluster}/postgresql.conf
cat >/etc/postgresql/17/{cluster}/conf.d/tests.conf <<'END'
fsync = off
huge_pages = off
shared_buffers = {buffers}MB
listen_addresses = ''
END
systemctl enable --quiet postgresql
systemctl start postgresql@17-{cluster}
"""
_TOUCH = """\
CREATE EXTENSION IF NOT EXISTS pg_prewarm;
CREATE TABLE IF NOT EXISTS filler AS SELECT repeat('x', 900) AS x FROM generate_series(1, 40000);
"""
# A session that has read all of it, and stays.
_SESSION = "(echo \"SELECT pg_prewarm('filler'), count(x) FROM filler;\"; sleep 100000) | psql -XAtq"

pytestmark = [
    pytest.mark.skipif(os.environ.get("MSHARE_PROVE") != "1", reason="a story of minutes: MSHARE_PROVE=1"),
    pytest.mark.skipif(missing_systemd() is not None, reason=missing_systemd() or ""),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("remedy"), HOSTS, PATRONI) as made:
        for number in EVERY:
            made.fleet.open_pools(number)
            for cluster, port in PORTS.items():
                made.do(number, _CREATE.format(cluster=cluster, port=port, buffers=BUFFERS_MIB))
                sql(made, number, _TOUCH, cluster)
        yield made


@pytest.fixture
def pool() -> Iterator[int]:
    """How many pages the machine's pool has; nobody else changes it meanwhile."""
    with huge_pages.restored():
        yield huge_pages.count()


def sql(world: World, number: int, query: str, cluster: str = "main") -> str:
    words = ("psql", "-XAtqp", str(PORTS[cluster]), "-c", query)
    return world.do(number, f"cd / && runuser -u postgres -- {shlex.join(words)}")


def remedy(world: World, *flags: str, on: tuple[int, ...] | None = None, **given: Any) -> Run:
    variables = {f"mshare_remedy_{key}": value for key, value in given.items() if key != "remedy"}
    if "remedy" in given:
        variables["mshare_remedy"] = given["remedy"]
    return world.playbook(
        "dbmem.mshare.remedy",
        *flags,
        on=on,
        mshare_serial=1,
        mshare_remedy_probes=2,
        # Others may start a PostgreSQL meanwhile, which takes pages if there are any: enough for two of them.
        mshare_remedy_spare=160,
        mshare_runtime_packages_managed=False,
        **{"mshare_remedy_restart_ok": True, **variables},
    )


def state(world: World, number: int) -> list[str]:
    """What must be as it was: configuration, programs, groups, and what runs of ours."""
    lines = world.snapshot(number)
    kept = ("group ", "mount ", "file /etc/", "file /usr/local/", "file /var/lib/mshare")
    return [
        line for line in lines if line.startswith(kept) or (line.startswith("process ") and "mshare" in line)
    ]


def huge_status(world: World, number: int) -> dict[str, str]:
    return {cluster: sql(world, number, "SHOW huge_pages_status", cluster) for cluster in PORTS}


def changed(run: Run) -> dict[str, int]:
    return {host: recap["changed"] for host, recap in run.recaps.items()}


def undo(world: World) -> list[bool]:
    """Undo every host, and whether that changed it. There is one pool, so the last one comes first."""
    runs = {number: remedy(world, on=(number,), state="absent").succeeded() for number in reversed(EVERY)}
    return [changed(runs[number])[name(number)] > 0 for number in EVERY]


def test_native_host_by_host_there_again_and_back(hosts: World, pool: int) -> None:
    before = [state(hosts, number) for number in EVERY]
    checked = remedy(hosts, "--check", "--diff", remedy="native").succeeded()
    assert [state(hosts, number) for number in EVERY] == before
    assert huge_pages.count() == pool
    assert all(checked.on(name(number))[PLAN]["actions"] for number in EVERY)

    run = remedy(hosts, remedy="native").succeeded()
    for number in EVERY:
        # PostgreSQL's own word.
        assert huge_status(hosts, number) == {"main": "on", "second": "on"}
        results = run.on(name(number))[APPLY]["instances"]
        assert {each["cluster"]: each["restarted"] for each in results} == {
            "17-main": True,
            "17-second": True,
        }
        assert all(each["measured"][0]["after_bytes"] for each in results)
    assert huge_pages.count() >= pool + HOSTS * 2 * BUFFERS_MIB // 2

    for wanted in ("native", "auto"):
        again = remedy(hosts, remedy=wanted).succeeded()
        assert changed(again) == {name(number): 0 for number in EVERY}
    planned = hosts.playbook("dbmem.mshare.plan").succeeded()
    for number in EVERY:
        verdicts = [each["verdict"][0] for each in planned.on(name(number))["Plan"]["instances"]]
        assert len(verdicts) == 2
        assert all("Nothing to do" in verdict for verdict in verdicts)

    undo(hosts)
    assert [differences(*pair) for pair in zip(before, (state(hosts, number) for number in EVERY))] == [
        []
    ] * HOSTS
    assert [huge_status(hosts, number) for number in EVERY] == [{"main": "off", "second": "off"}] * HOSTS
    assert huge_pages.count() == pool
    assert undo(hosts) == [False] * HOSTS


def test_a_host_that_fails_goes_back_and_the_run_stops(hosts: World, pool: int) -> None:
    """The second server of the second host does not start again."""
    before = [state(hosts, number) for number in EVERY]
    wrong = "/etc/postgresql/17/second/conf.d/wrong.conf"
    hosts.do(1, f"echo \"unix_socket_directories = '/no/such/directory'\" >{wrong}")
    run = remedy(hosts, remedy="native")
    hosts.do(1, f"rm {wrong} && systemctl restart postgresql@17-second")
    assert run.exit_code == 2
    assert set(run.recaps) == {name(0), name(1)}
    assert "/no/such/directory" in run.said
    assert "what this run had done before that is undone" in run.said
    assert huge_status(hosts, 0) == {"main": "on", "second": "on"}
    assert [differences(before[number], state(hosts, number)) for number in (1, 2)] == [[], []]
    assert [huge_status(hosts, number)["main"] for number in (1, 2)] == ["off", "off"]
    # What was recorded is undone where there is something.
    assert undo(hosts) == [True, False, False]
    assert differences(before[0], state(hosts, 0)) == []
    assert huge_pages.count() == pool


@pytest.mark.parametrize("wanted", ["hugetlb", "thp"])
def test_through_the_library(hosts: World, pool: int, wanted: str) -> None:
    before = state(hosts, 0)
    run = remedy(hosts, remedy=wanted, on=(0,)).succeeded()
    assert {each["remedy"] for each in run.on(name(0))[APPLY]["instances"]} == {wanted}
    postmaster = hosts.do(0, f"head -1 {_DATA}/postmaster.pid")
    assert "libmshare-preload.so" in hosts.do(0, f"cat /proc/{postmaster}/maps")
    assert (huge_pages.count() > pool) == (wanted == "hugetlb")
    again = remedy(hosts, remedy=wanted, on=(0,)).succeeded()
    assert changed(again) == {name(0): 0}
    remedy(hosts, state="absent", on=(0,)).succeeded()
    hosts.playbook("dbmem.mshare.teardown", on=(0,)).succeeded()
    assert differences(before, state(hosts, 0)) == []
    assert huge_pages.count() == pool


def _is_huge(world: World) -> bool:
    postmaster = world.do(0, f"head -1 {_DATA}/postmaster.pid 2>/dev/null || echo 0")
    if postmaster == "0":
        return False
    sizes = world.do(
        0, f"sed -n 's/^ShmemPmdMapped: *\\([0-9]*\\) kB/\\1/p' /proc/{postmaster}/smaps || true"
    )
    return sum(map(int, sizes.split())) > 16 << 10


def _restart_host(world: World) -> None:
    """What a reboot does in the host's user space: all of it ends, and systemd starts it again."""
    before = world.do(0, "systemctl show --property=InvocationID --value ssh.service")
    world.do(0, "systemd-run --quiet --on-active=1 systemctl soft-reboot")

    def is_back() -> bool:
        try:
            now = world.do(0, "systemctl show --property=InvocationID --value ssh.service")
        except AssertionError:
            return False
        return now not in ("", before)

    world.eventually(is_back, "the host is back")
    world.eventually(
        lambda: world.do(0, "pg_lsclusters -h | grep -c online || true") == "2", "its servers run"
    )


def _begin_session(world: World) -> None:
    """Something has the memory mapped: what nobody has in use is not collapsed."""
    world.do(
        0,
        f"systemctl stop session 2>/dev/null; systemd-run --quiet --unit=session --uid=postgres sh -c "
        f"{shlex.quote('cd / && ' + _SESSION)}",
    )


def test_the_service_that_collapses_under_systemd(hosts: World) -> None:
    before = state(hosts, 0)
    run = remedy(hosts, remedy="collapse", on=(0,), instances=["postgresql 5432"]).succeeded()
    (result,) = [each for each in run.on(name(0))[APPLY]["instances"] if each["cluster"]]
    assert result["service"]
    follow = {"target": _DATA, "follow": True, "interval": 1}
    hosts.play(0, {"name": "look often", "dbmem.mshare.mshare_collapse": follow}).succeeded()
    assert hosts.do(0, f"systemctl is-enabled {_SERVICE}; systemctl is-active {_SERVICE}").split() == [
        "enabled",
        "active",
    ]

    _begin_session(hosts)
    hosts.eventually(lambda: _is_huge(hosts), "huge pages at first")
    hosts.do(0, "systemctl restart postgresql@17-main")
    _begin_session(hosts)
    hosts.eventually(lambda: _is_huge(hosts), "huge pages after a restart")
    # A crash restart, with a backend that is killed.
    log = "/var/log/postgresql/postgresql-17-main.log"
    ready = int(hosts.do(0, f"grep -c 'ready to accept' {log}"))
    victim = sql(hosts, 0, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    hosts.do(0, f"kill -9 {victim}")
    hosts.eventually(
        lambda: int(hosts.do(0, f"grep -c 'ready to accept' {log}")) > ready, "the crash restart"
    )
    _begin_session(hosts)
    hosts.eventually(lambda: _is_huge(hosts), "huge pages after a crash restart")
    _restart_host(hosts)
    assert hosts.do(0, f"systemctl is-active {_SERVICE}") == "active"
    _begin_session(hosts)
    hosts.eventually(lambda: _is_huge(hosts), "huge pages after a restart of the host")

    hosts.do(0, "systemctl stop session")
    remedy(hosts, state="absent", on=(0,)).succeeded()
    hosts.playbook("dbmem.mshare.teardown", on=(0,)).succeeded()
    assert differences(before, state(hosts, 0)) == []


def test_limits_and_pools_are_there_after_a_restart_of_the_host(hosts: World, pool: int) -> None:
    before = state(hosts, 0)
    unit = "postgresql@17-main.service"
    # Less than usual: root may not have more here.
    limits = [{"unit": unit, "limit": "4MiB"}, {"user": "postgres", "limit": "2MiB"}]

    def limit() -> str:
        return hosts.do(0, f"systemctl show --property=LimitMEMLOCK --value {unit}")

    def of_server() -> str:
        process = f"/proc/$(head -1 {_DATA}/postmaster.pid)/limits"
        return hosts.do(0, f"sed -n 's/^Max locked memory *\\([^ ]*\\) .*/\\1/p' {process}")

    def of_login() -> str:
        return hosts.do(0, "su -s /bin/sh -c 'ulimit -l' postgres")

    usual = (limit(), of_login())
    task = {
        "name": "reserve",
        "dbmem.mshare.mshare_huge_pages": {"pages": [{"wanted": pool + 4}], "memlock": limits},
    }
    done = hosts.play(0, task).succeeded().on(name(0))["reserve"]
    assert done["boot"]["state"] == "as wanted"
    assert (limit(), of_login()) == (str(4 << 20), "2048")
    _restart_host(hosts)
    assert (limit(), of_server(), of_login()) == (str(4 << 20), str(4 << 20), "2048")
    # The kernel's settings are the machine's here: what systemd-sysctl would write is asked. The last wins.
    lines = hosts.do(0, "systemd-analyze cat-config sysctl.d | grep nr_hugepages").splitlines()
    assert lines[-1] == f"vm.nr_hugepages = {pool + 4}"
    assert hosts.play(0, task).succeeded().recaps[name(0)]["changed"] == 0
    absent = {"name": "absent", "dbmem.mshare.mshare_huge_pages": {"state": "absent"}}
    hosts.play(0, absent).succeeded()
    assert (limit(), of_login()) == usual
    assert differences(before, state(hosts, 0)) == []
    assert huge_pages.count() == pool
