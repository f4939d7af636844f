# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures for alerts: what each says, and that a restart makes no new series."""

from __future__ import annotations

import dataclasses
import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.clients.status import DeadClient
from mshare.info.facts import ClientsFacts, OwnerFacts, RegionFacts
from mshare.monitoring import figures as monitored
from mshare.monitoring.asked import Asked
from mshare.monitoring.exposition import text
from mshare.monitoring.figures import Figures, InstanceFigures, answer, figures
from mshare.monitoring.identity import identity
from mshare.survey.record import InstanceRecord, from_fields
from mshare.units import GIB, MIB
from rig import surveys

POD = "pod 01234567-89ab"
ID = "0123456789abcdef" * 4


def made(*instances: dict, asked: Asked | None = None, pools: list | None = None, **fields) -> Figures:
    survey = surveys.survey("db1", list(instances), **fields)
    if pools is not None:
        survey["host"]["huge_page_pools"] = pools
    return figures(from_fields(survey), regions=[], asked=asked or Asked())


def only(*instances: dict, **options) -> InstanceFigures:
    (figure,) = made(*instances, **options).instances
    return figure


def record(**fields) -> InstanceRecord:
    return from_fields(surveys.survey("db1", [surveys.instance("a", GIB, 3, **fields)])).instances[0]


def series(*figures_of: Figures) -> set[str]:
    """The series of several passes together: their names and labels."""
    lines = (line for each in figures_of for line in text(each).splitlines() if not line.startswith("#"))
    return {line.rpartition(" ")[0] for line in lines}


def test_what_processes_share_of_huge_pages_counts_once() -> None:
    """No alert for tables that are no memory, and no maximum below what there is."""
    one = surveys.in_huge_pages("ORCL", 1024 * GIB, 2000, maximum=5000, kind="oracle")
    survey = surveys.survey("db1", [one])
    survey["host"].update(page_tables_bytes=512 * MIB, memory_available_bytes=16 * GIB)
    (figure,) = figures(from_fields(survey), regions=[], asked=Asked()).instances
    assert 500 * MIB < figure.page_tables_bytes < 600 * MIB
    assert figure.page_tables_bytes < figure.page_tables_maximum_bytes < 2 * GIB
    assert not figure.will_run_out


# -- series


def server(number: int, start: int, **fields) -> dict:
    """A server of many on one port, as it is after one of its starts: other processes, inodes, places."""
    made = surveys.instance(
        f"postgresql 5432 /srv/{number}",
        GIB,
        10,
        100,
        data_directory=f"/srv/{number}",
        unit=f"postgresql@15-{number}.service",
        pids=[1000 * start + 100 * number + each for each in range(10)],
        **fields,
    )
    made["segments"][0].update(name=f"inode {start * 77 + number}", address=(1 << 40) + (start << 30))
    return made


def test_five_restarts_of_a_server_are_the_same_series():
    passes = [made(server(0, start)) for start in range(5)]
    assert series(*passes) == series(passes[0])


def test_of_six_servers_on_one_port_five_keep_their_series_when_one_ends():
    six = made(*(server(number, 1) for number in range(6)))
    five = made(*(server(number, 1) for number in range(1, 6)))
    one = surveys.instance(
        "postgresql 5432", GIB, 10, 100, data_directory="/srv/5", unit="postgresql@15-5.service"
    )
    assert series(five, made(one)) < series(six)
    assert {line for line in series(six) if "/srv/0" not in line} == series(five)


def test_two_segments_of_one_name_are_one_figure():
    twice = surveys.instance("a", GIB, 3)
    twice["segments"] = [surveys.segment(GIB, 3), surveys.segment(GIB, 3, address=1 << 42)]
    assert only(twice).shared_memory_bytes == 2 * GIB


def test_what_cannot_be_told_apart_is_added_up():
    first = surveys.instance("a", GIB, 3, 10, data_directory="/d")
    second = surveys.instance(
        "b", 2 * GIB, 5, 20, data_directory="/d", huge_pages_requested="on", settings={"huge_pages": "on"}
    )
    figure = only(first, second)
    assert (figure.processes, figure.processes_maximum) == (8, 30)
    assert figure.shared_memory_bytes == 3 * GIB
    assert figure.page_tables_bytes == sum(each["page_tables"]["sum_bytes"] for each in (first, second))
    assert figure.huge_pages_fallback
    assert only(second, first) == figure


@given(st.permutations(range(4)), st.integers(1, 4))
def test_the_order_and_who_else_is_there_change_no_label(order, count):
    all_of_them = made(*(server(number, 1) for number in range(4)))
    some = made(*(server(number, 2) for number in order[:count]))
    assert {each.data_directory for each in some.instances} == {f"/srv/{number}" for number in order[:count]}
    assert series(some) <= series(all_of_them)


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("postgresql@15-main.service", "postgresql@15-main.service"),
        ("pgpool2.service", "pgpool2.service"),
        ("app-server.service", "app-server.service"),
        ("run-fade@1.service", "run-fade@1.service"),
        ("app-org.gnome.Terminal@5f0ade.service", ""),
        ("session-42.scope", ""),
        ("run-u812.service", ""),
        ("run-r0123456789abcdef0123456789abcdef.scope", ""),
        ("run-p4711-i4712.service", ""),
        ("app-gnome-psql-4711.scope", ""),
        ("dbus-:1.2-org.freedesktop.problems@0.service", ""),
        (f"docker-{ID}.scope", ""),
        (None, ""),
    ],
)
def test_a_unit_that_is_named_anew_each_time_is_no_label(unit, label):
    assert identity(record(unit=unit)).unit == label


def test_a_pod_is_named_as_kubernetes_names_it_whichever_container_it_has_now():
    pods = [record(container=f"{POD} container {number:012x}", hostname="pg-0") for number in (1, 2)]
    assert {identity(pod).container for pod in pods} == {"pod pg-0"}
    for name in (None, os.uname().nodename):
        assert identity(record(container=f"{POD} container 1", hostname=name)).container == POD


DOCKER = "container 0123456789ab"
QUADLET = f"/system.slice/pg.service/libpod-payload-{ID}"


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"hostname": "pg-a"}, "container pg-a"),
        ({"hostname": "pg-a", "volume": "pgdata"}, "container pg-a"),
        # By default the host name is the id, or with --network=host that of the host.
        ({"hostname": ID[:12], "volume": "pgdata"}, "volume pgdata"),
        ({"hostname": ID, "volume": "/srv/pg"}, "volume /srv/pg"),
        ({"hostname": os.uname().nodename, "volume": "pgdata"}, "volume pgdata"),
        ({"volume": "pgdata", "unit": "pg.service"}, "volume pgdata"),
        ({"unit": "pg.service", "cgroup": QUADLET}, ""),
        ({"unit": f"docker-{ID}.scope"}, DOCKER),
        ({"hostname": ID[:12]}, DOCKER),
        ({"container": "container web1", "hostname": "x", "volume": "y"}, "container web1"),
    ],
)
def test_a_container_made_anew_has_the_same_name_where_there_is_one(fields, label):
    assert identity(record(**{"container": DOCKER, **fields})).container == label


@pytest.mark.parametrize("field", ["data_directory", "sid", "unit", "hostname", "executable"])
def test_a_very_long_name_is_cut_and_stays_another_than_those_like_it(field):
    def labels(ending):
        value = ("/" if field == "executable" else "") + "ä" * 100_000 + ending
        return identity(record(**{"container": DOCKER, field: value}))

    assert labels("b") == labels("b")
    assert labels("b.service") != labels("c.service")
    assert max(map(len, vars(labels("b.service")).values())) == 200


def many(count, **fields):
    return [
        surveys.instance(f"i{n}", GIB, 1 + n, 10 + n, kind="other", data_directory=None,
                         executable=f"/bin/p{n}", **fields)
        for n in range(count)
    ]  # fmt: skip


def test_very_many_instances_are_a_bounded_number_of_series():
    server = surveys.instance("a", GIB, 1, 2)
    whole = made(*many(199), server)
    assert (len(whole.instances), whole.survey.instances_combined) == (200, 0)
    assert whole.instances[-1].kind == "postgresql"
    figures = made(*many(250), server)
    assert (len(figures.instances), figures.survey.instances_combined) == (200, 52)
    assert figures.survey.instances == 251
    assert figures.instances[0].kind == "postgresql"
    rest = figures.instances[-1]
    assert (rest.kind, rest.program, rest.port) == ("rest", "rest", "")
    # Those with the smallest page tables; nothing of them is lost.
    assert rest.processes == sum(1 + n for n in range(52))
    assert sum(each.page_tables_bytes for each in figures.instances) == sum(
        each["page_tables"]["sum_bytes"] for each in (*many(250), server)
    )


def test_an_instance_that_will_run_out_is_not_lost_among_the_rest():
    limit = {"resource": "memory", "file": "/sys/fs/cgroup/a/memory.max", "limit_bytes": 1}
    small = surveys.instance("b", MIB, 1, 2, kind="other", executable="/bin/small", limits=[limit])
    assert made(*many(200), small).instances[-1].will_run_out


def test_a_program_whose_package_was_upgraded_is_the_same():
    before, after = record(executable="/usr/bin/postgres"), record(executable="/usr/bin/postgres (deleted)")
    assert identity(before) == identity(after)


# -- what they say


def test_the_configured_maximum_is_what_the_plan_expects():
    figures = made(surveys.instance("a", 64 * GIB, 100, 1000))
    (figure,) = figures.instances
    assert 9 * figure.page_tables_bytes < figure.page_tables_maximum_bytes <= 10 * figure.page_tables_bytes
    host = figures.host
    growth = figure.page_tables_maximum_bytes - figure.page_tables_bytes
    assert host.page_tables_maximum_bytes == host.page_tables_bytes + growth
    assert not host.will_run_out
    assert figure.page_tables_room_bytes == host.memory_available_bytes
    assert figure.remedy_open
    assert figure.remedy_saving_bytes > GIB


def test_an_instance_that_its_host_does_not_survive():
    figures = made(surveys.instance("a", 128 * GIB, 100, 100_000))
    assert figures.host.will_run_out
    assert figures.instances[0].will_run_out


def test_a_cgroup_leaves_less_room_than_the_host():
    limit = {"resource": "memory", "file": "/sys/fs/cgroup/a/memory.max", "limit_bytes": 2 * GIB}
    figure = only(surveys.instance("a", GIB, 100, 10_000, limits=[limit]))
    assert figure.page_tables_room_bytes < GIB
    assert figure.will_run_out


FULL, EMPTY = surveys.pool(2 * MIB, total=512, free=512), surveys.pool(2 * MIB)
HUGE = {"kind": "hugetlb", "page_bytes": 2 * MIB}


@pytest.mark.parametrize(
    ("fields", "pool", "fallback"),
    [
        # By default (try), it is no fault where nobody set anything aside.
        ({"huge_pages_requested": "try"}, EMPTY, False),
        ({"huge_pages_requested": "try"}, FULL, True),
        ({"huge_pages_requested": "try", "settings": {"huge_pages": "try"}}, EMPTY, True),
        ({"huge_pages_requested": "on", "settings": {"huge_pages": "on"}}, EMPTY, True),
        ({"huge_pages_requested": "off", "settings": {"huge_pages": "off"}}, FULL, False),
        ({"huge_pages_requested": "off", "preload": "hugetlb"}, FULL, True),
        ({"huge_pages_requested": None}, FULL, False),
        ({"kind": "oracle", "huge_pages_requested": "TRUE"}, EMPTY, True),
        ({"kind": "oracle", "huge_pages_requested": "FALSE"}, FULL, False),
        ({"kind": "python"}, FULL, False),
    ],
)
def test_a_fall_back_from_try(fields, pool, fallback):
    figure = only(surveys.instance("a", GIB, 3, **fields), pools=[pool])
    assert figure.huge_pages_fallback == fallback
    assert not figure.huge_pages
    huge = surveys.instance("a", GIB, 3, **fields)
    huge["segments"][0].update(HUGE)
    assert not only(huge, pools=[pool]).huge_pages_fallback
    assert only(huge, pools=[pool]).huge_pages
    assert only(huge, pools=[pool]).shared_memory_huge_bytes == GIB


def test_a_pool_that_nobody_uses():
    figures = made(surveys.instance("a", GIB, 3, huge_pages_requested="try"), pools=[FULL])
    (pool,) = figures.pools
    assert (pool.page_size, pool.size_bytes, pool.free_bytes, pool.unused) == ("2MiB", GIB, GIB, True)
    assert pool.wanted_bytes == GIB
    (used,) = made(pools=[surveys.pool(2 * MIB, total=512, free=511)]).pools
    assert (used.unused, used.wanted_bytes, used.available_bytes) == (False, 2 * MIB, 511 * 2 * MIB)
    (promised,) = made(pools=[surveys.pool(2 * MIB, total=512, free=512, reserved=2)]).pools
    assert not promised.unused
    assert not made(pools=[EMPTY]).pools[0].unused


@pytest.mark.parametrize(
    ("fields", "asked", "lost"),
    [
        ({"preload": "thp", "preload_mapped": True}, Asked(), False),
        ({"preload": "thp", "preload_mapped": False}, Asked(), True),
        ({}, Asked(), False),
        ({"data_directory": "/d"}, Asked(data_directories=frozenset({"/d"})), True),
        ({"unit": "pg.service"}, Asked(units=frozenset({"pg.service"})), True),
        ({"unit": "pg.service", "preload": "thp"}, Asked(units=frozenset({"pg.service"})), False),
    ],
)
def test_a_preload_that_a_restart_lost(fields, asked, lost):
    assert only(surveys.instance("a", GIB, 3, **fields), asked=asked).preload_lost == lost


def test_who_was_set_up_with_the_library_and_had_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "postgresql"
    folder.mkdir()
    verified = {"pages": "thp", "pid": 1, "started_ticks": 2}
    for name, fields in {
        "15-main": {"pages": "thp", "verified": verified},
        "postgresql-16": {"pages": "hugetlb", "verified": verified},
        "15-native": {"pages": "native", "verified": verified},
        "15-waits": {"pages": "thp"},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(fields))
    asked = Asked.on_this_host()
    assert asked.units == {"postgresql@15-main.service", "postgresql-16.service"}
    assert asked.data_directories == {"/var/lib/postgresql/15/main"}
    assert asked.unread == ()
    (folder / "15-main.json").write_text("{")
    asked = Asked.on_this_host()
    assert len(asked.unread) == 1
    assert str(folder / "15-main.json") in asked.unread[0]
    assert not made(asked=asked).survey.complete


def test_what_could_not_be_read_is_counted():
    missing = [
        {"pid": pid, "what": what, "reason": "permission denied"}
        for pid, what in ((1000, "maps"), (1000, "pagemap"), (1001, "maps"), (5, "status"), (None, "x"))
    ]
    figures = made(surveys.instance("a", GIB, 3), missing=missing, complete=False, vanished=4)
    survey = figures.survey
    assert (survey.complete, survey.unread, survey.unread_processes, survey.unread_instances) == (
        False,
        5,
        3,
        1,
    )
    assert (survey.processes, survey.instances, survey.vanished_processes) == (83, 1, 4)
    assert survey.timestamp_seconds == 1795766400.0


def test_the_answer_is_the_survey_and_its_figures():
    survey = from_fields(surveys.survey("db1", [surveys.instance("a", GIB, 3)]))
    fields = answer(survey).to_dict()
    assert {name: value for name, value in fields.items() if name != "figures"} == survey.to_dict()
    assert fields["figures"]["instances"][0]["processes"] == 3
    # What a plan reads.
    assert from_fields(fields) == survey


# -- regions


def region(**fields) -> RegionFacts:
    facts = RegionFacts(
        name="sga",
        root="/run/msharefs",
        path="/run/msharefs/sga",
        mode="0600",
        uid=0,
        gid=0,
        exists=True,
        window_bytes=4 * GIB,
        mapped_bytes=GIB,
        address=None,
        mappings=(),
        owner=OwnerFacts(1, True, "ready", None, "0.1.0", None),
        health="healthy",
        clients=None,
    )
    return dataclasses.replace(facts, **fields)


def of_region(**fields):
    survey = from_fields(surveys.survey("db1", []))
    (figure,) = figures(survey, regions=[region(**fields)], asked=Asked()).regions
    return figure


def clients(**fields) -> ClientsFacts:
    facts = ClientsFacts(
        "sga", "ready", 7, True, "0.1.0", 10, 8, (DeadClient(1, 2, "x"),) * 2, (), "/run/msharefs"
    )
    return dataclasses.replace(facts, **fields)


def test_a_region_with_its_owner_and_clients():
    figure = of_region(clients=clients())
    assert (figure.owner_alive, figure.healthy, figure.mapped_bytes) == (True, True, GIB)
    assert (figure.clients_requested, figure.clients_attached, figure.clients_dead) == (10, 8, 2)
    assert of_region().clients_requested == 0


def test_a_region_without_owner():
    figure = of_region(owner=OwnerFacts(1, False, "gone", None, None, None), health="stale")
    assert (figure.owner_alive, figure.healthy) == (False, False)


def test_of_what_may_not_be_read_nothing_is_claimed():
    figure = of_region(
        owner=OwnerFacts(None, False, "unknown", None, None, None),
        health="unknown",
        clients=clients(state="unreadable", requested=None, attached=None, dead=()),
    )
    values = (figure.owner_alive, figure.healthy, figure.clients_requested, figure.clients_attached)
    assert values == (None, None, None, None)
    assert figure.clients_dead is None


def test_a_root_that_may_not_be_read_makes_the_survey_partial_and_nothing_fail(monkeypatch):
    def refuse(root):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/run/mshare/run-msharefs")

    monkeypatch.setattr(monitored.roots, "roots", lambda: ["/run/msharefs"])
    monkeypatch.setattr(monitored.inventory, "region_names", refuse)
    survey = from_fields(surveys.survey("db1", []))
    found = figures(survey, asked=Asked())
    whole = figures(survey, regions=[], asked=Asked())
    assert found.regions == ()
    assert (found.survey.complete, found.survey.unread) == (False, whole.survey.unread + 1)
    assert whole.survey.complete
