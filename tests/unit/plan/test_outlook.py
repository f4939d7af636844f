# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict on instances and hosts, the one remedy, and the size of the pool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mshare.labels import Kind
from mshare.plan import outlook, text
from mshare.plan.facts import from_arguments, from_survey
from mshare.plan.plan import Plan, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB
from rig.surveys import SUPPORT, instance, pool, segment, survey

SIZE = 8 * GIB
DEBIAN = "/var/lib/postgresql/15/main"


def planned(*instances: Any, generations: bool = False, **host: Any) -> Plan:
    stored = survey("db1", list(instances))
    stored["host"].update(host)
    return plan(from_survey(from_fields(stored)), generations=generations)


@pytest.mark.parametrize(
    ("maximum", "verdict", "words"),
    [
        (110, "fine", "fine"),
        # 16 MiB a process, and a little for itself: 400 more are 6.4 GiB.
        (500, "at_risk", "at risk"),
        (5000, "will_run_out", "will run out of memory at its maximum"),
    ],
)
def test_the_verdict_is_about_what_is_left(maximum: int, verdict: str, words: str) -> None:
    made = planned(instance("main", SIZE, 100, maximum), memory_available_bytes=10 * GIB)
    (one,) = made.instances
    assert (one.outlook.verdict, one.outlook.words) == (verdict, words)
    assert f"main: {words}: page tables 1.6 GiB now (measured)" in one.outlook.sentence
    assert "(projected), 10 GiB memory available." in one.outlook.sentence
    assert made.outlook.verdict == verdict
    assert made.outlook.available_bytes == 10 * GIB


def test_instances_that_are_fine_one_by_one_can_be_too_much_together() -> None:
    several = [instance(f"db{number}", SIZE, 100, 300) for number in range(4)]
    made = planned(*several, memory_available_bytes=10 * GIB)
    assert {one.outlook.verdict for one in made.instances} == {"fine"}
    assert made.outlook.verdict == "will_run_out"


def test_a_cgroup_that_binds_first_is_named() -> None:
    limit = {"resource": "memory", "file": "/sys/fs/cgroup/db/memory.max", "limit_bytes": 12 * GIB}
    (one,) = planned(instance("main", SIZE, 100, 500, limits=[limit])).instances
    assert one.outlook.verdict == "will_run_out"
    assert "left by /sys/fs/cgroup/db/memory.max" in one.outlook.sentence


def test_the_one_remedy_says_what_it_saves_costs_and_needs() -> None:
    (one,) = planned(instance("main", SIZE, 100, 500)).instances
    assert one.outlook.remedy_id == "hugetlb_2m"
    assert one.outlook.saving_bytes == one.row("hugetlb_2m").saving_bytes
    assert one.outlook.costs == "a restart, rarely a reboot"
    assert "vm.nr_hugepages" in (one.outlook.needs or "")


def test_where_the_database_cannot_ask_for_huge_pages_the_preload_does() -> None:
    old = instance("main", SIZE, 100, 500, settings={"shared_memory_type": "sysv"}, data_directory=DEBIAN)
    (one,) = planned(old).instances
    assert one.outlook.remedy_id == "preload_hugetlb"
    assert one.outlook.command == (
        "ansible-playbook dbmem.mshare.remedy -e mshare_remedy=hugetlb"
        """ -e '{"mshare_remedy_instances": ["main"]}' -e mshare_remedy_restart_ok=true"""
    )


@pytest.mark.parametrize("kind", ["python", "php-fpm", "nginx"])
def test_programs_that_are_no_database_get_no_advice_for_databases(kind: str) -> None:
    made = planned(instance("web", SIZE, 100, None, kind=kind, data_directory=None, port=None))
    assert made.paste.database == ()
    (one,) = made.instances
    assert not one.row("pooling").usable
    # OPcache needs no more than the pool.
    expected = None if kind == "php-fpm" else "mshare run --pages hugetlb -- COMMAND"
    assert one.outlook.command == expected


def huge(**fields: Any) -> dict[str, Any]:
    """An instance whose segment is as given."""
    one = instance("main", 0, 100)
    one["segments"] = [segment(SIZE, 100, **fields)]
    one["page_tables"]["sum_bytes"] += one["segments"][0]["page_tables_bytes"]
    return one


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "hugetlb", "page_bytes": 2 * MIB},
        # All but the ends, as transparent huge pages are.
        {"huge_bytes": SIZE - 2 * MIB, "page_tables_bytes": 100 * 12288},
    ],
)
def test_nothing_is_left_to_do_and_nothing_to_paste(fields: dict[str, Any]) -> None:
    made = planned({**huge(**fields), "preload": "thp"})
    (one,) = made.instances
    assert one.outlook.done is not None
    assert "huge pages already through the preload" in one.outlook.done
    assert one.outlook.remedy_id is None
    assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ())


def test_a_server_in_a_region_has_nothing_left_to_do() -> None:
    made = planned(_in_region())
    (one,) = made.instances
    assert one.outlook.done == "its shared memory is in region sga already"
    assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ())


def _in_region() -> dict[str, Any]:
    one = instance("main", 0, 100)
    one["segments"] = [segment(SIZE, 100, kind="msharefs", region="sga", page_tables_bytes=None)]
    return one


def test_the_generations_are_one_row() -> None:
    ids = [row.id for row in planned(instance("main", SIZE, 10)).instances[0].rows]
    assert [name for name in ids if name.startswith("mshare")] == ["mshare"]
    every = planned(instance("main", SIZE, 10), generations=True).instances[0]
    assert len([row for row in every.rows if row.id.startswith("mshare_")]) == 5
    with_it = {**SUPPORT, "kernel_supported": True, "generation": "2025-04"}
    row = planned(instance("main", SIZE, 10), mshare=with_it).instances[0].row("mshare")
    assert (row.usable, row.remedy, row.reboot) == (True, "mshare 2025-04", "no")


def test_a_host_without_instances_is_one_line() -> None:
    made = planned()
    assert made.notes == (
        "Nothing to plan: no program here has shared memory and page tables above the survey's threshold.",
    )
    assert made.outlook.verdict == "fine"
    assert made.paste.sysctl == ()


def test_processes_that_share_a_segment_of_their_own_do_not_make_all_share_it() -> None:
    one = instance("main", SIZE, 105, 300, helpers=5)
    one["segments"] += [
        segment(GIB, 5, name="/dev/shm/PostgreSQL.1", kind="posix", short_lived=True),
        segment(GIB, 21, name="of some", address=1 << 41),
    ]
    (made,) = planned(one).instances
    inputs = {each.name: each.clients for each in made.row("nothing").inputs.segments}
    # 100 clients become 300; the five helpers stay.
    assert inputs == {"anonymous shared memory": 305, "of some": 63}


class TestPool:
    def test_another_default_size_has_another_file(self) -> None:
        made = planned(instance("main", SIZE, 10), huge_page_default_bytes=GIB)
        assert not any(line.startswith("vm.nr_hugepages") for line in made.paste.sysctl)
        assert "w /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages - - - - 4104" in made.paste.sysctl
        assert any("counts pages of 1 GiB on this host" in line for line in made.paste.sysctl)

    def test_a_pool_is_never_made_smaller(self) -> None:
        made = planned(instance("main", SIZE, 10), huge_page_pools=[pool(2 * MIB, total=40_000, free=40_000)])
        assert "vm.nr_hugepages = 40000" in made.paste.sysctl
        assert any("The pool is large enough already (40000)" in line for line in made.paste.sysctl)

    def test_most_of_the_ram_is_not_for_the_pool(self) -> None:
        made = planned(instance("main", 639 * GIB // 10, 10), memory_total_bytes=64 * GIB)
        assert not any(line.startswith("vm.") for line in made.paste.sysctl)
        assert not made.instances[0].row("hugetlb_2m").usable

    def test_several_that_fit_one_by_one_may_not_fit_together(self) -> None:
        both = [instance(name, 30 * GIB, 10) for name in ("one", "two")]
        made = planned(*both, memory_total_bytes=64 * GIB)
        assert not any(line.startswith("vm.") for line in made.paste.sysctl)
        assert any("do not fit: 60 GiB of 64 GiB of RAM" in line for line in made.paste.sysctl)

    def test_what_is_left_for_the_rest_is_said(self) -> None:
        made = planned(instance("main", SIZE, 10), memory_total_bytes=64 * GIB)
        assert any("leaves 56 GiB for everything else" in line for line in made.paste.sysctl)

    def test_opcache_that_takes_pages_first_is_counted(self) -> None:
        php = instance("php-fpm", 128 * MIB, 30, kind="php-fpm", data_directory=None)
        made = planned(instance("main", SIZE, 10), php)
        assert f"vm.nr_hugepages = {4096 + 64 + 8}" in made.paste.sysctl
        assert any(
            "php-fpm: its OPcache takes huge pages first: 64 pages" in line for line in made.paste.sysctl
        )

    def test_numa_nodes_and_a_cgroup_that_binds_are_named(self) -> None:
        limit = {"resource": "hugetlb 2MB", "file": "/sys/fs/cgroup/db/hugetlb.2MB.max", "limit_bytes": GIB}
        nodes = [pool(2 * MIB, node=number, reserved=None) for number in (0, 1)]
        made = planned(instance("main", SIZE, 10, limits=[limit]), huge_page_pools=[pool(2 * MIB), *nodes])
        assert any(
            "2 NUMA nodes: pages that the kernel takes from each: 2052" in line for line in made.paste.sysctl
        )
        assert any(
            "main: /sys/fs/cgroup/db/hugetlb.2MB.max allows 1 GiB of 8 GiB" in line
            for line in made.paste.sysctl
        )


@pytest.mark.parametrize(
    ("manager", "place"),
    [
        (None, "# postgresql.conf of main"),
        ("patroni", "# Patroni, `patronictl edit-config`"),
        ("kubernetes", "# the operator's resource for main"),
        ("container", "# the command of the container of main"),
    ],
)
def test_the_setting_goes_where_its_manager_keeps_settings(manager: str | None, place: str) -> None:
    lines = planned(instance("main", SIZE, 10, manager=manager)).paste.database
    assert lines[0].startswith(place)
    assert "huge_pages = on" in lines


@pytest.mark.parametrize(("version", "counts"), [("14", False), ("15", True), ("9.6", False)])
def test_how_many_pages_it_needs_is_asked_where_it_can_say(version: str, counts: bool) -> None:
    lines = planned(instance("main", SIZE, 10, version=version)).paste.database
    assert any("shared_memory_size_in_huge_pages" in line for line in lines) == counts
    assert any("huge_page_size" in line for line in lines) == (version != "9.6")


def test_from_wishes_the_verdict_needs_the_ram() -> None:
    wished = plan(from_arguments(300 * GIB, 1500, memory_bytes=512 * GIB))
    assert wished.outlook.verdict == "will_run_out"
    assert wished.outlook.remedy_id == "hugetlb_2m"
    assert plan(from_arguments(300 * GIB, 1500)).outlook.available_bytes is None


def test_huge_pages_in_one_process_only_leave_the_others_to_do() -> None:
    (one,) = planned(huge(huge_bytes=SIZE)).instances
    assert one.outlook.done is None
    assert one.row("collapse").usable


LIMIT = {"resource": "memory", "file": "/sys/fs/cgroup/db.slice/memory.max", "limit_bytes": 26 * GIB}


def test_a_limit_on_a_cgroup_is_for_all_instances_in_it_together() -> None:
    """Each alone would have 16 GiB for its 6.4 GiB; both have 6.5 GiB for 12.8."""
    both = [instance(name, SIZE, 100, 500, limits=[LIMIT]) for name in ("one", "two")]
    made = planned(*both)
    assert [one.outlook.verdict for one in made.instances] == ["fine", "fine"]
    assert made.outlook.verdict == "will_run_out"
    assert made.outlook.limit == "/sys/fs/cgroup/db.slice/memory.max"
    assert "left by /sys/fs/cgroup/db.slice/memory.max for one, two." in made.outlook.sentence


def test_an_instance_that_nothing_helps_takes_memory_all_the_same() -> None:
    """100 processes with 256 KiB each, and room for 40,000."""
    made = planned(instance("main", 0, 100, 40_000), memory_available_bytes=9 * GIB)
    assert made.instances == ()
    assert made.outlook.verdict == "will_run_out"
    assert made.outlook.at_maximum_bytes == 40_000 * 256 * 1024


def test_what_saves_little_of_the_ram_is_optional_where_memory_suffices() -> None:
    made = planned(instance("main", SIZE, 100, 110))
    (one,) = made.instances
    assert (one.outlook.verdict, one.outlook.optional, one.outlook.done) == ("fine", True, None)
    assert one.outlook.sentence.endswith(
        "Nothing to do: the best remedy saves 1.7 GiB, which is less than 1 % of the RAM."
    )
    shown = text.lines(made)
    assert any(line.startswith("  Optional ") for line in shown)
    assert not any(line.startswith("  Remedy ") for line in shown)
    assert "Huge pages, to paste, optional:" in shown


@pytest.mark.parametrize("host", [{"memory_available_bytes": 2 * GIB}, {"memory_total_bytes": 64 * GIB}])
def test_what_saves_much_or_what_is_needed_is_not_optional(host: dict[str, int]) -> None:
    made = planned(instance("main", SIZE, 100, 200), **host)
    assert not made.outlook.optional
    assert not made.instances[0].outlook.optional
    assert "Nothing to do" not in made.instances[0].outlook.sentence


# -- the choice among rows, as the module itself makes it


@dataclass(frozen=True)
class Row:
    """A remedy's row, with what the choice depends on."""

    id: str
    saving_bytes: int
    usable: bool = True
    waste_bytes: int = 0
    memory_bytes: int = 0
    restart: str = "yes"
    reboot: str = "rarely"
    takes: str = "vm.nr_hugepages"
    command: str | None = "sysctl"
    confidence: Kind = "modelled"

    @property
    def remedy(self) -> str:
        return f"remedy {self.id}"


def chosen(*rows: Row, **fields: Any) -> outlook.Outlook:
    facts = from_survey(from_fields(survey("db1", [instance("main", SIZE, 100, 110, **fields)])))
    (planned_instance,) = facts.instances
    return outlook.of_instance(facts, planned_instance, 2 * GIB, "projected", rows)


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        # The first in order that saves half of what the best one does.
        ([Row("hugetlb_2m", 60 * MIB), Row("hugetlb_1g", 100 * MIB)], "hugetlb_2m"),
        ([Row("hugetlb_2m", 40 * MIB), Row("hugetlb_1g", 100 * MIB)], "hugetlb_1g"),
        ([Row("collapse", 100 * MIB), Row("hugetlb_2m", 100 * MIB, usable=False)], "collapse"),
        ([Row("mshare_2025_08", 100 * MIB)], "mshare_2025_08"),
        # Less than 1 MiB is not worth a restart.
        ([Row("hugetlb_2m", MIB - 1)], None),
        ([Row("hugetlb_2m", 100 * MIB, usable=False)], None),
        ([], None),
    ],
)
def test_the_remedy_that_is_taken(rows: list[Row], taken: str | None) -> None:
    made = chosen(*rows)
    assert made.remedy_id == taken
    if taken is None:
        assert made.sentence.endswith(
            "Nothing to do: none of the open remedies saves enough to be worth a change."
        )
        assert (made.saving_bytes, made.saving_kind, made.command, made.costs) == (0, None, None, None)
    else:
        assert (made.remedy, made.command, made.needs) == (f"remedy {taken}", "sysctl", "vm.nr_hugepages")
        assert made.saving_kind == "modelled"


@pytest.mark.parametrize(
    ("fields", "costs"),
    [
        ({}, "a restart, rarely a reboot"),
        ({"restart": "no", "reboot": "no"}, "no restart, no reboot"),
        (
            {"restart": "clients", "reboot": "yes", "waste_bytes": MIB},
            "clients reconnect, a reboot, 1 MiB of rounding",
        ),
    ],
)
def test_what_a_remedy_costs_in_words(fields: dict[str, Any], costs: str) -> None:
    assert chosen(Row("hugetlb_2m", 100 * MIB, **fields)).costs == costs


def test_a_host_is_no_better_than_its_worst_instance() -> None:
    facts = from_survey(from_fields(survey("db1", [])))
    fine, lost = chosen(), replace(chosen(), verdict="will_run_out")
    assert outlook.of_host(facts, [fine, lost]).verdict == "will_run_out"
    assert outlook.of_host(facts, [fine]).verdict == "fine"
    assert outlook.of_host(facts, []).at_maximum_kind == "measured"


def test_the_hosts_remedy_is_that_of_the_instance_that_saves_most() -> None:
    facts = from_survey(from_fields(survey("db1", [])))
    little, much = chosen(Row("collapse", 2 * MIB)), chosen(Row("hugetlb_2m", 9 * MIB))
    made = outlook.of_host(facts, [little, much])
    assert (made.remedy_id, made.saving_bytes, made.done) == ("hugetlb_2m", 11 * MIB, None)
