# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that set themselves up unlike those of the other tests: who is who, and what belongs to whom."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import Unavailable
from mshare.host import processes, segments
from mshare.host.processes import Pass, Process, Vanished
from mshare.host.segments import Filesystem, Kind, Mapping
from mshare.survey import databases, groups, host, survey
from mshare.survey.groups import MATTERS_BYTES, Grouping
from mshare.survey.survey import _manager, _Row
from mshare.units import GIB, KIB, MIB
from rig.survey_parts import LIBC, instance_of, map_shared, running, survey_fields, touch

SIZE = 8 * MIB
CLONE_NEWIPC = 0x08000000
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")


# -- whose memory it is


@root_only
def test_system_v_memory_of_two_ipc_namespaces_is_not_one_segment() -> None:
    """Oracle or Db2 in two containers: in each namespace the first segment has the id 0."""

    def work(number: int) -> None:
        assert LIBC.unshare(CLONE_NEWIPC) == 0
        identity = LIBC.shmget(0, ctypes.c_size_t(SIZE), 0o1600)
        assert identity == 0
        touch(LIBC.shmat(identity, None, 0), SIZE)

    with running(work, 2) as pids:
        found = survey_fields(threshold_bytes=1)
    instances = [instance_of(found, pid) for pid in pids]
    assert [one["pids"] for one in instances] == [[pid] for pid in pids]
    for one in instances:
        assert [(each["kind"], each["processes"]) for each in one["segments"]] == [("sysv", 1)]
        # What nothing else sets apart has its process in the name.
        assert one["name"].endswith(f"(process {one['pids'][0]})")


@root_only
def test_no_instance_has_more_than_all_page_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """PageTables has leaf tables only before Linux 5.10, and shared ones once: less than all VmPTE."""
    facts = host.facts()
    monkeypatch.setattr(host, "facts", lambda: replace(facts, page_tables_bytes=64 * KIB))
    with running(lambda __: touch(map_shared(-1, SIZE), SIZE)) as pids:
        found = survey_fields(threshold_bytes=1)
        assert instance_of(found, pids[0]) is not None
    shares = [one["share_of_host_percent"] for one in found["instances"]]
    assert max(shares) <= sum(shares) <= 100 + 0.01 * len(shares)


@root_only
def test_an_id_of_system_v_memory_is_no_inode() -> None:
    """Memory without a file lies on the same device, and its inodes begin with small numbers as ids do."""
    text = (
        b"7f0000000000-7f0000800000 rw-s 00000000 00:01 3     /SYSV00000000 (deleted)\n"
        b"7f0001000000-7f0001800000 rw-s 00000000 00:01 3     /dev/zero (deleted)\n"
    )
    reader = segments.Reader(querying=False)
    parsed = reader.parse(text)
    one, other = reader._of_namespace(parsed, processes.of_pid(os.getpid()).namespace("ipc"))
    assert one.identity != other.identity
    # What lies behind the device is known all the same.
    assert segments.Devices().of(one, os.getpid()).internal


@pytest.mark.parametrize(
    ("page_bytes", "filesystem", "kind"),
    [(4 * KIB, "tmpfs", "anonymous"), (2 * MIB, "hugetlbfs", "hugetlb")],
)
def test_shared_memory_that_a_program_gave_a_name(page_bytes: int, filesystem: str, kind: str) -> None:
    """PHP 8.3 does so with its OPcache (php/php-src#8234); since Linux 6.2 that stands in place of a path."""
    text = (
        b"7f0000000000-7f0008000000 rw-s 00000000 00:01 1027  [anon_shmem:zend_shared_alloc]\n"
        b"7f0010000000-7f0018000000 rw-p 00000000 00:00 0  [anon:zend_alloc]\n"
    )
    (mapping,) = segments.Reader(querying=False).parse(text)
    assert mapping.end - mapping.start == 128 * MIB
    found = segments.kind(mapping, Filesystem(filesystem, page_bytes=page_bytes, internal=True))
    assert found == Kind(kind, "zend_shared_alloc", None, page_bytes)


def mapping(inode: int) -> Mapping:
    return Mapping(GIB, 2 * GIB, 0, True, b"00:01", inode, b"/dev/zero")


def process(pid: int, parent: int = 1, name: str = "server", tables_bytes: int = MIB) -> Process:
    status = f"Name:\t{name}\nUid:\t0\t0\t0\t0\nPPid:\t{parent}\n"
    return Process(pid, status.encode(), tables_bytes)


@pytest.mark.parametrize(
    ("parents", "users", "short_lived"),
    [
        # A parallel query: workers of the postmaster, which does not map their memory.
        ({10: 1, 11: 10, 12: 10}, [11, 12], True),
        ({10: 1, 11: 10, 12: 11}, [12], True),
        ({10: 1, 11: 10, 12: 10}, [10, 11], False),
        # Guests that share a little with each other: what each has of its own stays.
        ({10: 1, 20: 1}, [20], False),
        ({10: 1, 11: 10, 20: 1}, [11, 20], False),
        # Pids that were used again while they were read.
        ({10: 1, 20: 21, 21: 20}, [20], False),
    ],
)
def test_short_lived_is_only_what_somebody_s_children_have(
    parents: dict[int, int], users: list[int], short_lived: bool
) -> None:
    members = {pid: process(pid, parent) for pid, parent in parents.items()}
    row = _Row(Kind("anonymous", "inode 1", None, 4 * KIB))
    row.add([mapping(1)], [members[pid] for pid in users])
    assert row.is_without(members[10], list(members.values())) is short_lived
    assert row.record(0, 0, short_lived).processes == len(users)


def grouping(
    monkeypatch: pytest.MonkeyPatch, seen: list[Process], shared: dict[int, object], threshold: int = KIB
) -> Grouping:
    class Reader:
        def shared(self, process: Process) -> object:
            found = shared[process.pid]
            if isinstance(found, Exception):
                raise found
            return found

    whole = Pass()
    whole.processes.extend(seen)
    made = Grouping(whole, threshold)
    monkeypatch.setattr(made, "_reader", Reader())
    monkeypatch.setattr(groups.segments, "kind", lambda mapping, device: Kind("anonymous", "", None, 4 * KIB))
    monkeypatch.setattr(made._devices, "of", lambda mapping, pid: None)
    return made


@pytest.mark.parametrize("tables_bytes", [MATTERS_BYTES, MATTERS_BYTES - KIB])
def test_one_process_that_pays_much_has_a_name(monkeypatch: pytest.MonkeyPatch, tables_bytes: int) -> None:
    """MySQL, MongoDB or Java with 100 GiB of their own memory share it with nobody, and pay 200 MiB."""
    made = grouping(monkeypatch, [process(10, name="mysqld", tables_bytes=tables_bytes)], {10: ()})
    assert [group.processes[0].pid for group in made.groups()] == (
        [10] if tables_bytes == MATTERS_BYTES else []
    )


def test_an_oracle_that_may_not_be_read_is_one_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes have all different names, and an ordinary user sees no more of them than these."""
    names = {
        10: "ora_pmon_ORCL", 11: "ora_dbw0_ORCL", 12: "oracle_12_orcl", 20: "ora_pmon_OTHER", 30: "postgres",
    }  # fmt: skip
    titles = {12: ["oracleORCL (LOCAL=NO)"]}
    monkeypatch.setattr(Process, "arguments", lambda process: titles.get(process.pid, [process.name]))
    monkeypatch.setattr(Process, "cgroup", lambda process: "/")
    seen = [process(pid, name=name) for pid, name in names.items()]
    made = grouping(monkeypatch, seen, {pid: PermissionError() for pid in names})
    found = sorted(sorted(each.pid for each in group.processes) for group in made.groups())
    assert found == [[10, 11, 12], [20], [30]]


# -- PostgreSQL by its titles


@pytest.mark.parametrize(
    ("title", "helper"),
    [
        # As in timescale/timescaledb#1593, greenplum-db/gpdb#13450 and #4939, neondatabase/neon#10281,
        # hapostgres/pg_auto_failover#3 and skaiworldwide-oss/agensgraph#161.
        ("postgres: 9.6/main: archiver process   last was 000000010000000000000002", True),
        ("postgres: bgworker: logical replication launcher   ", True),
        ("postgres: TimescaleDB Background Worker Launcher ", True),
        ("postgres:  4001, checkpointer process   ", True),
        ("postgres: 25437, writer process", True),
        ("postgres:  5432, gpadmin postgres [local] con12 cmd3 idle", False),
        ("postgres:  6000, gpadmin shop 10.0.0.2(40022) con7 seg0 idle", False),
        ("postgres: WAL proposer streaming 2/2EA7F078", True),
        ("postgres: cloud_admin postgres 127.0.0.1(41176) DObackpressure throttling: lag 53368", False),
        ("postgres: pg_auto_failover_health_checker worker   ", True),
        ("postgres: [AG] logger process   ", True),
        ("postgres: [AG] kskim postgres [local] idle", False),
        # cluster_name may hold a colon, a role may be called like a process of the server.
        ("postgres: shop: eu: checkpointer ", True),
        ("postgres: shop: eu: app shop [local] idle in transaction", False),
        ("postgres: startup shop [local] idle", False),
        ("postgres: logger logs ::1(54321) SELECT", False),
        ("postgres: 17/main: app shop fe80::1%eth0(40022) idle", False),
        # update_process_title = off leaves what is known when a process begins.
        ("postgres: app shop [local]", False),
        ("postgres: app shop db.example.com(40022)", False),
        ("postgres: autovacuum worker shop", True),
        ("postgres: 15/main: parallel worker for PID 4711 ", True),
        ("postgres: walsender replicator 10.0.0.3(40022) streaming 0/3000148", True),
        ("postgres: wal sender process replicator 10.0.0.3(40022) streaming 0/3000148", True),
        ("postgres: eu: walsender replicator 10.0.0.3(40022) START_REPLICATION", True),
        ("postgres: [unknown] [unknown] 10.0.0.7(40022) initializing", False),
        # No title yet: forked a moment ago.
        ("/usr/lib/postgresql/17/bin/postgres -D /data -c cluster_name=a: b", False),
        ("", False),
    ],
)
def test_which_processes_max_connections_does_not_count(
    title: str, helper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Process, "title", lambda process: title)
    assert databases._is_helper(process(10, name="postgres")) is helper


# -- Oracle


def recognised(monkeypatch: pytest.MonkeyPatch, names: dict[str, str], executable: str) -> databases.Database:
    """By command names and titles, in this order."""
    members = [process(10 + number, name=name) for number, name in enumerate(names)]
    titles = {member.pid: names[member.name] for member in members}
    monkeypatch.setattr(Process, "arguments", lambda process: [titles[process.pid]])
    monkeypatch.setattr(Process, "path", lambda process, name: f"/nowhere/{name}")
    return databases.recognise(members, members[0], executable, {})


@pytest.mark.parametrize("name", ["db_sync_orders", "ios_test_runner", "mdb_copy_all", "xe_job1_nightly"])
def test_a_program_with_a_name_like_oracle_s_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recognised(monkeypatch, {name: name}, f"/usr/local/bin/{name}")
    assert (found.kind, found.name, found.sid) == ("other", name, None)


@pytest.mark.parametrize(
    ("names", "sid"),
    [
        # In a cluster, the storage instance serves the databases, with their names in its titles.
        (
            {
                "oracle+ASM1_asm": "oracle+ASM1_asmb_orcl1 (DESCRIPTION=(LOCAL=YES)",
                "asm_pmon_+ASM1": "asm_pmon_+ASM1",
            },
            "+ASM1",
        ),
        ({"oracle+ASM1_asm": "oracle+ASM1_asmb_orcl1 (DESCRIPTION=(LOCAL=YES)"}, "+ASM1"),
        ({"mdb_pmon_-MGMTD": "mdb_pmon_-MGMTDB"}, "-MGMTDB"),
        ({"oracle-MGMTDB": "oracle-MGMTDB (LOCAL=NO)"}, "-MGMTDB"),
        ({"oracle_4711_my_": "oraclemy_db (LOCAL=NO)"}, "my_db"),
        # 12c with threads: a few processes for all of it.
        ({"ora_u004_ORCL": "ora_u004_ORCL", "ora_scmn_ORCL": "ora_scmn_ORCL"}, "ORCL"),
    ],
)
def test_the_sid_of_an_oracle(names: dict[str, str], sid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recognised(monkeypatch, names, "/u01/app/oracle/product/19/dbhome_1/bin/oracle")
    assert (found.kind, found.sid) == ("oracle", sid)


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        (None, "dbhome/dbs"),
        ("#orabasetab\n{home}:{base}:OraDB19Home1:N:\n", "dbhome/dbs"),
        # Since 21c a home is read-only by default, and its parameter files are in the base.
        ("#orabasetab\n{home}:{base}:OraDB21Home1:Y:\n", "base/dbs"),
        ("not a table\n:::Y\n", "dbhome/dbs"),
    ],
)
def test_where_an_oracle_has_its_parameters(table: str | None, folder: str, tmp_path: Path) -> None:
    home, base = tmp_path / "dbhome", tmp_path / "base"
    for place in (home / "install", home / "dbs", base / "dbs"):
        place.mkdir(parents=True)
    if table is not None:
        (home / "install/orabasetab").write_text(table.format(home=home, base=base))
    (tmp_path / folder / "spfileFREE.ora").write_bytes(b"C\0\0*.processes=400\n*.use_large_pages='ONLY'\n")
    database = databases.Database(sid="FREE")
    databases._oracle_parameters(processes.of_pid(os.getpid()), database, str(home / "bin/oracle"))
    assert database.processes_maximum is not None
    assert database.processes_maximum.value == 400
    assert (database.huge_pages_requested, database.missing) == ("ONLY", [])


# -- who configures it


@pytest.mark.parametrize(
    ("inside", "patroni", "unit", "manager"),
    [
        (None, False, "postgresql@17-main.service", None),
        (None, True, "patroni.service", "patroni"),
        (None, True, "patroni@17-main.service", "patroni"),
        (None, True, None, "patroni"),
        # Somebody's own, which runs Patroni.
        (None, True, "postgresql-patroni.service", "patroni"),
        # Taken out of Patroni, or restored from a backup of its.
        (None, True, "postgresql@17-main.service", None),
        (None, True, "postgresql-17.service", None),
        ("container 0123456789ab", False, None, "container"),
        ("pod a1b2c3d4-0000 container 0123456789ab", False, None, "kubernetes"),
        ("pod a1b2c3d4-0000 container 0123456789ab", True, None, "patroni"),
        # LXC and systemd-nspawn have whole systems in them.
        ("container web1", False, None, None),
        ("container 0123456789ab-old", False, None, None),
    ],
)
def test_who_writes_the_configuration(
    inside: str | None, patroni: bool, unit: str | None, manager: str | None
) -> None:
    database = databases.Database(has_patronis_file=patroni)
    assert _manager(database, inside, unit) == manager


def test_limits_on_huge_pages_that_are_promised_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey.huge_pages, "sizes_bytes", lambda: [64 * KIB, 2 * MIB])
    files = [(resource, v2_file) for resource, __, __, v2_file in survey._limited()]
    assert files == [
        ("memory", "memory.max"),
        ("hugetlb 64KB", "hugetlb.64KB.max"),
        ("hugetlb 64KB", "hugetlb.64KB.rsvd.max"),
        ("hugetlb 2MB", "hugetlb.2MB.max"),
        ("hugetlb 2MB", "hugetlb.2MB.rsvd.max"),
    ]


# -- other programs


@pytest.mark.parametrize(
    ("program", "maps", "kind"),
    [
        ("apache2", b"7f r-xp /usr/lib/apache2/modules/libphp8.2.so\n", "php"),
        ("httpd", b"7f r-xp /usr/lib64/httpd/modules/mod_ssl.so\n", "apache"),
        ("apache2", Vanished(), "apache"),
        ("apache2", PermissionError(), "apache"),
        ("lsphp", b"", "php"),
        ("php-cgi8.2", b"", "php"),
        ("php-fpm8.2", b"", "php-fpm"),
        ("php", b"", "php"),
        ("phpmyadmin", b"", "other"),
        ("uwsgi", b"", "other"),
        ("nginx", b"", "nginx"),
        ("python3.11", b"", "python"),
    ],
)
def test_web_servers_and_their_modules(
    program: str, maps: bytes | Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> bytes:
        if isinstance(maps, Exception):
            raise maps
        return maps

    monkeypatch.setattr(databases, "read", read)
    found = recognised(monkeypatch, {program: program}, f"/usr/bin/{program}")
    assert (found.kind, found.name) == (kind, program)


# -- the host


def test_pages_of_another_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """arm64 and ppc64le with pages of 64 KiB: no figure rather than a wrong one."""
    monkeypatch.setattr(host.os, "sysconf", lambda name: 64 * KIB)
    with pytest.raises(
        Unavailable, match="has pages of 64 KiB, and page tables can be counted for pages of 4 KiB"
    ):
        host.facts()


@pytest.mark.parametrize("machine", ["s390x", "ppc64le"])
def test_tables_of_another_shape_are_refused(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ("Linux", "db7", "6.12.0", "#1 SMP", machine)
    monkeypatch.setattr(host.os, "uname", lambda: os.uname_result(fields))
    with pytest.raises(Unavailable, match=f"is one for {machine}, whose page tables have another shape"):
        host.facts()
