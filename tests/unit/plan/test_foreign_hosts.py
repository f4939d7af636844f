# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan advises on hosts that are unlike those of the other tests, and to other programs."""

from __future__ import annotations

from typing import Any

import pytest

from mshare.plan import text
from mshare.plan.facts import from_survey
from mshare.plan.plan import InstancePlan, Plan, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, KIB, MIB
from rig.surveys import PROCESS_BYTES, in_huge_pages, instance, pool, segment, survey

OF_THE_POOL = ("preload_hugetlb", "hugetlb_2m", "hugetlb_pmd_sharing")


def planned(*instances: Any, **host: Any) -> Plan:
    found = survey("db7", list(instances))
    found["host"].update(host)
    return plan(from_survey(from_fields(found)))


def other(name: str, executable: str, **fields: Any) -> Any:
    """A program that no survey knows as a database: 200 processes with 32 GiB."""
    fields = {"kind": "other", "data_directory": None, "port": None, "version": None, **fields}
    return instance(name, 32 * GIB, 200, executable=executable, **fields)


def reason(one: InstancePlan, remedy: str) -> str:
    return "; ".join(one.row(remedy).reasons)


def screen(made: Plan) -> str:
    return " ".join("\n".join(text.lines(made, width=80)).split())


# -- the host


@pytest.mark.parametrize(
    ("default_bytes", "pools", "words"),
    [
        (None, [], "no huge pages of 2 MiB: it has none at all"),
        # ppc64le with the hash MMU, s390x, arm64 with pages of 64 KiB.
        (16 * MIB, [pool(16 * MIB), pool(16 * GIB)], "no huge pages of 2 MiB: its sizes are 16 MiB, 16 GiB"),
        (MIB, [pool(MIB)], "no huge pages of 2 MiB: its sizes are 1 MiB"),
    ],
)
def test_a_kernel_without_pages_of_2_mib(default_bytes: int | None, pools: list[Any], words: str) -> None:
    """No line for a file that the kernel does not have."""
    made = planned(
        instance("main", 32 * GIB, 200, maximum=1000),
        huge_page_default_bytes=default_bytes,
        huge_page_pools=pools,
    )
    (one,) = made.instances
    for remedy in OF_THE_POOL:
        assert not one.row(remedy).usable
        assert words in reason(one, remedy)
    assert one.outlook.remedy_id == "preload_thp"
    assert made.paste.sysctl == ()
    assert not any("huge_pages" in line for line in made.paste.database)


def test_small_huge_pages_of_arm64_have_their_own_name_in_a_cgroup() -> None:
    """64 KiB is a size of huge pages there; the controller calls it 64KB, and no other size is meant."""
    limit = {"resource": "hugetlb 64KB", "file": "/sys/fs/cgroup/hugetlb.64KB.max", "limit_bytes": 0}
    made = planned(
        instance("main", 8 * GIB, 200, maximum=1000, limits=[limit]),
        huge_page_pools=[pool(64 * KIB), pool(2 * MIB), pool(32 * MIB), pool(GIB)],
    )
    assert made.instances[0].row("hugetlb_2m").usable
    assert "64KB" not in screen(made)


def test_pages_that_others_have_leave_no_room() -> None:
    """DPDK, guests or another database have most of the RAM in the pool: what is left is too little."""
    taken = pool(2 * MIB, total=200 * 512, free=0)
    made = planned(
        instance("main", 60 * GIB, 200, maximum=1000),
        memory_total_bytes=256 * GIB,
        huge_page_pools=[taken, pool(GIB)],
    )
    (one,) = made.instances
    for remedy in OF_THE_POOL:
        assert not one.row(remedy).usable
        assert "need 60 GiB beside the 200 GiB that other huge pages have" in reason(one, remedy)
    assert made.paste.sysctl == ()


def test_free_pages_of_another_size_are_not_free_memory() -> None:
    """200 pages of 1 GiB were set aside at boot for guests or DPDK, which do not run at the moment."""
    for_guests = pool(GIB, total=200, free=200)
    host = {"memory_total_bytes": 256 * GIB, "huge_page_pools": [pool(2 * MIB), for_guests]}
    made = planned(instance("main", 60 * GIB, 200, maximum=1000), **host)
    (one,) = made.instances
    for remedy in OF_THE_POOL:
        assert "need 60 GiB beside the 200 GiB that other huge pages have" in reason(one, remedy)
    # Those pages can be its own.
    assert one.row("hugetlb_1g").usable
    assert not any(line.startswith("vm.nr_hugepages") for line in made.paste.sysctl)
    smaller = planned(instance("main", 16 * GIB, 200, maximum=1000), **host)
    assert (
        "# The pool is 16 GiB of 256 GiB of RAM beside 200 GiB for pages of other sizes: it leaves 40 GiB for"
        " everything else" in smaller.paste.sysctl
    )
    both = planned(*(instance(name, 16 * GIB, 200, maximum=1000) for name in ("one", "two")), **host)
    assert "at once do not fit: they need 32 GiB beside the 200 GiB that other huge pages have" in screen(
        both
    )


def test_what_an_instance_has_of_the_pool_is_counted_once() -> None:
    """Most of an SGA in the pool and the rest not, as after it was enlarged without the pool."""
    one = instance("ORCL", 8 * GIB, 100, kind="oracle")
    one["segments"].append(segment(60 * GIB, 100, kind="hugetlb", page_bytes=2 * MIB, address=2 << 40))
    made = planned(
        one,
        memory_total_bytes=96 * GIB,
        huge_page_pools=[pool(2 * MIB, total=60 * 512, free=0), pool(GIB)],
    )
    assert made.instances[0].row("hugetlb_2m").usable
    assert f"vm.nr_hugepages = {68 * 512 + 8}" in made.paste.sysctl


def test_pages_of_1_gib_that_others_have_stay_theirs() -> None:
    """A guest has 16 of the 20 there are: a line with what the database needs alone would take them away."""
    guests = pool(GIB, total=20, free=4)
    made = planned(instance("main", 32 * GIB, 200, maximum=1000), huge_page_pools=[pool(2 * MIB), guests])
    assert any(line.endswith("hugepagesz=1G hugepages=48") for line in made.paste.sysctl)


def test_each_fits_and_both_do_not() -> None:
    """Two databases of 300 GiB on 512 GiB, of which little is touched: the pool takes all of it."""
    made = planned(*(instance(name, 300 * GIB, 100, maximum=200) for name in ("one", "two")))
    assert [one.outlook.remedy_id for one in made.instances] == ["hugetlb_2m"] * 2
    assert "Huge pages for one, two at once do not fit: they need 600 GiB of 512 GiB of RAM." in screen(made)
    assert not any(line.startswith("vm.nr_hugepages") for line in made.paste.sysctl)
    alone = planned(instance("one", 300 * GIB, 100, maximum=200))
    assert "at once" not in screen(alone)
    assert any(line.startswith("vm.nr_hugepages") for line in alone.paste.sysctl)


@pytest.mark.parametrize(
    ("kind", "name"), [("sysv", "key 0x5a7c1e04, id 32769"), ("anonymous", "inode 4711")]
)
def test_a_segment_that_two_programs_have_needs_its_pages_once(kind: str, name: str) -> None:
    """An Oracle, and a tool of another vendor that reads its SGA from memory."""
    database = instance("ORCL", 0, 400, maximum=1000, kind="oracle")
    tool = other("collector", "/opt/tool/bin/collector")
    for one in (database, tool):
        one["segments"] = [segment(100 * GIB, 200, kind=kind, name=name)]
    made = planned(database, tool, memory_total_bytes=192 * GIB)
    assert [one.row("preload_hugetlb").usable for one in made.instances] == [True, True]
    assert f"vm.nr_hugepages = {100 * 512 + 8}" in made.paste.sysctl
    assert "at once" not in screen(made)
    # The same name in another container, or of another size, is another segment.
    tool["segments"] = [segment(20 * GIB, 200, kind=kind, name=name)]
    assert f"vm.nr_hugepages = {120 * 512 + 8}" in planned(database, tool).paste.sysctl
    if kind == "sysv":
        tool.update(segments=database["segments"], container="container 0123456789ab")
        assert f"vm.nr_hugepages = {200 * 512 + 8}" in planned(database, tool).paste.sysctl


def test_names_that_programs_give_are_not_one_segment() -> None:
    """Two servers of PHP call their memory alike; each needs pages of its own."""
    servers = [instance(name, 0, 200, maximum=1000) for name in ("one", "two")]
    for one in servers:
        one["segments"] = [segment(16 * GIB, 200, name="zend_alloc")]
    assert f"vm.nr_hugepages = {32 * 512 + 8}" in planned(*servers).paste.sysctl


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({"huge_pages_requested": "try"}, True),
        ({"huge_pages_requested": "on"}, True),
        ({"huge_pages_requested": "off"}, False),
        ({"huge_pages_requested": "try", "preload": "thp"}, False),
        ({"huge_pages_requested": None}, False),
        ({"huge_pages_requested": "TRUE", "kind": "oracle"}, True),
        ({"huge_pages_requested": "FALSE", "kind": "oracle"}, False),
    ],
)
def test_who_takes_pages_at_its_next_start_is_counted(fields: dict[str, Any], counted: bool) -> None:
    """A server that was collapsed where it is finds the pool of the other one when it is restarted."""
    done = instance("done", 4 * GIB, 100, **fields)
    done["segments"][0].update(huge_bytes=4 * GIB, page_tables_bytes=100 * 5 * 4 * KIB)
    made = planned(done, instance("left", 16 * GIB, 200, maximum=1000))
    assert made.instances[0].outlook.done is not None
    pages = 16 * 512 + 8 + (4 * 512 if counted else 0)
    assert f"vm.nr_hugepages = {pages}" in made.paste.sysctl
    line = "# done: takes huge pages when it is restarted: 2,048 pages"
    assert (line in made.paste.sysctl) is counted


def test_a_server_that_would_take_pages_for_which_there_is_no_room() -> None:
    """Both do not fit into the RAM: the one that is to have the pages gets them, the other is told to ask for
    none. With `try` it would take them first, and the one with `on` would not start."""
    done = instance("done", 60 * GIB, 100, huge_pages_requested="try")
    done["segments"][0].update(huge_bytes=60 * GIB, page_tables_bytes=100 * 61 * 4 * KIB)
    left = instance("left", 60 * GIB, 200, maximum=1000)
    made = planned(done, left, memory_total_bytes=128 * GIB, memory_available_bytes=4 * GIB)
    assert f"vm.nr_hugepages = {30 * 1024 + 8}" in made.paste.sysctl
    assert any(
        line.startswith("# done: takes huge pages when it is restarted: 30,720 pages, which do not fit")
        for line in made.paste.sysctl
    )


def test_a_pool_that_is_there_already_takes_no_more_of_the_ram() -> None:
    """Somebody has most of the RAM in a pool that is free, and the database fits into it."""
    free = pool(2 * MIB, total=60 * 512, free=60 * 512)
    made = planned(
        instance("main", 50 * GIB, 200, maximum=1000),
        memory_total_bytes=64 * GIB,
        huge_page_pools=[free, pool(GIB)],
    )
    assert f"vm.nr_hugepages = {60 * 512}" in made.paste.sysctl
    assert not any("do not fit" in line for line in made.paste.sysctl)


def test_lines_are_for_those_that_have_something_to_do() -> None:
    """A small server beside a large one: nothing is to be done for it, so nothing is pasted for it."""
    large = instance("large", 64 * GIB, 300, maximum=1000)
    small = instance("small", 16 * MIB, 3, maximum=10, kind="oracle", huge_pages_requested="TRUE")
    made = planned(large, small)
    assert [one.outlook.optional for one in made.instances] == [False, True]
    assert not any("small" in line for line in made.paste.database)
    # It takes its pages all the same, as its setting says.
    assert "# small: takes huge pages when it is restarted: 8 pages" in made.paste.sysctl
    assert f"vm.nr_hugepages = {64 * 512 + 8 + 8}" in made.paste.sysctl
    # Where it is optional for all, all get their lines.
    assert any("small" in line for line in planned(small).paste.database)


def test_nothing_is_pasted_where_nothing_is_worth_a_change() -> None:
    made = planned(instance("tiny", 2 * MIB, 2))
    assert "none of the open remedies saves enough" in (made.instances[0].outlook.done or "")
    assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ())


def test_what_is_little_for_each_is_needed_where_all_together_are_too_much() -> None:
    """Many segments of Greenplum on one host: each is fine and saves less than 1 % of the RAM, and the host
    runs out of memory at all of their maxima. The remedy is for all of them, but one that saves nothing."""
    segments = [instance(f"seg{number}", 4 * GIB, 100, maximum=500) for number in range(16)]
    tiny = instance("tiny", 16 * MIB, 3, maximum=10)
    made = planned(*segments, tiny, memory_available_bytes=32 * GIB)
    assert made.outlook.verdict == "will_run_out"
    *all_of_them, last = made.instances
    for one in all_of_them:
        assert (one.outlook.verdict, one.outlook.optional) == ("fine", False)
        assert one.outlook.remedy_id == "hugetlb_2m"
        assert "Nothing to do" not in one.outlook.sentence
    assert last.outlook.optional
    assert f"vm.nr_hugepages = {16 * 2048 + 8}" in made.paste.sysctl
    # With the remedies the host is fine, and so they are optional where memory suffices without them.
    fine = planned(*segments, tiny, memory_available_bytes=128 * GIB)
    assert fine.outlook.verdict == "fine"
    assert all(one.outlook.optional for one in fine.instances)


# -- tables that VmPTE counts in every process


def test_pmd_tables_that_huge_pages_share_are_memory_once() -> None:
    """Oracle with an SGA of 1 TiB in huge pages and 2,000 processes: VmPTE has 4 MiB of PMD tables in each,
    8 GiB in all, and the kernel has one set of them."""
    one = in_huge_pages("ORCL", 1024 * GIB, 2000, maximum=5000, kind="oracle")
    # A PUD table for each 512 GiB is its own.
    own_bytes = 2000 * (PROCESS_BYTES + 2 * 4 * KIB)
    host = {"memory_total_bytes": 1536 * GIB, "memory_available_bytes": 16 * GIB}
    made = planned(one, page_tables_bytes=512 * MIB, **host)
    (planned_one,) = made.instances
    assert planned_one.today_bytes is not None
    assert abs(planned_one.today_bytes - own_bytes - 1024 * 4 * KIB) < 4 * KIB
    assert planned_one.today_kind == "modelled"
    assert made.outlook.verdict == "fine"
    assert "now (modelled)" in made.outlook.sentence
    assert (
        "ORCL: VmPTE of its processes adds up to 8.3 GiB, of which 7.8 GiB are no memory (modelled): they"
        " share page tables of their huge pages, and the kernel counts these in each process." in screen(made)
    )


def test_no_more_is_taken_off_than_the_host_contradicts() -> None:
    """Where PageTables has as much as all VmPTE together, nothing is shared: a kernel without
    CONFIG_HUGETLB_PMD_PAGE_TABLE_SHARING, or memory with userfaultfd."""
    one = in_huge_pages("ORCL", 1024 * GIB, 2000, maximum=5000, kind="oracle")
    sum_bytes = one["page_tables"]["sum_bytes"]
    (as_counted,) = planned(one, page_tables_bytes=sum_bytes + 100 * MIB).instances
    assert (as_counted.today_bytes, as_counted.today_kind) == (sum_bytes, "measured")
    # Others have 40 MiB.
    (partly,) = planned(one, page_tables_bytes=sum_bytes + 40 * MIB - GIB).instances
    assert partly.today_bytes is not None
    assert abs(partly.today_bytes - (sum_bytes - GIB)) < 8 * KIB


@pytest.mark.parametrize(
    ("fields", "processes"),
    [
        ({"kind": "anonymous", "page_bytes": 4 * KIB}, 200),
        ({"kind": "hugetlb", "page_bytes": GIB}, 200),
        ({"kind": "hugetlb", "page_bytes": 2 * MIB, "address": (1 << 40) + GIB // 2, "size": GIB}, 200),
        ({"kind": "hugetlb", "page_bytes": 2 * MIB}, 1),
    ],
)
def test_what_is_no_whole_gib_of_huge_pages_is_not_shared(fields: dict[str, Any], processes: int) -> None:
    one = instance("main", 0, processes, maximum=1000)
    size_bytes = fields.pop("size", 64 * GIB)
    one["segments"] = [segment(size_bytes, processes, **fields)]
    sum_bytes = one["segments"][0]["page_tables_bytes"] + processes * PROCESS_BYTES
    one["page_tables"]["sum_bytes"] = sum_bytes
    (planned_one,) = planned(one, page_tables_bytes=MIB).instances
    assert (planned_one.today_bytes, planned_one.today_kind) == (sum_bytes, "measured")


# -- limits of cgroups


def in_cgroup(**limit: Any) -> dict[str, Any]:
    return {"resource": "memory", "file": "/sys/fs/cgroup/db.slice/memory.max", **limit}


def test_huge_pages_are_not_charged_to_a_limit_on_memory() -> None:
    """A pod with 2 GiB of memory and 8 GiB of hugepages-2Mi holds 8 GiB in huge pages, and is fine."""
    one = instance("main", 0, 50, maximum=100, limits=[in_cgroup(limit_bytes=2 * GIB)])
    one["segments"] = [segment(8 * GIB, 50, kind="hugetlb", page_bytes=2 * MIB)]
    made = planned(one)
    assert made.outlook.verdict == "fine"
    one["segments"][0].update(kind="anonymous", page_bytes=4 * KIB)
    assert planned(one).outlook.verdict == "will_run_out"


@pytest.mark.parametrize(("left_bytes", "verdict"), [(None, "fine"), (64 * MIB, "will_run_out")])
def test_what_a_cgroup_uses_decides_what_is_left(left_bytes: int | None, verdict: str) -> None:
    """Sorting, caches and other processes in the cgroup take from the same limit."""
    limit = in_cgroup(limit_bytes=64 * GIB, available_bytes=left_bytes)
    made = planned(instance("main", 8 * GIB, 50, maximum=100, limits=[limit]))
    assert made.outlook.verdict == verdict
    if left_bytes is not None:
        assert made.outlook.limit == "/sys/fs/cgroup/db.slice/memory.max"
        assert "64 MiB left by /sys/fs/cgroup/db.slice/memory.max" in screen(made)


# -- programs that are no databases the survey knows


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("chrome", "other"),
        ("uwsgi", "other"),
        ("haproxy", "other"),
        ("varnishd", "other"),
        ("apache2", "apache"),
        ("php", "php"),
        ("db2sysc", "other"),
    ],
)
def test_no_pooler_for_what_has_no_connections(program: str, kind: str) -> None:
    (one,) = planned(other(program, f"/usr/bin/{program}", kind=kind)).instances
    assert not one.row("pooling").usable
    assert one.outlook.remedy_id != "pooling"


@pytest.mark.parametrize(
    ("program", "setting"),
    [
        ("db2sysc", "DB2_LARGE_PAGE_MEM=DB"),
        ("oninit", "IFX_LARGE_PAGES=1"),
        ("java", "-XX:+UseLargePages"),
        ("qemu-system-x86_64", "hugetlb=on"),
        ("qemu-kvm", "<memoryBacking><hugepages/>"),
        ("java (deleted)", "-XX:+UseLargePages"),
    ],
)
def test_a_program_s_own_setting(program: str, setting: str) -> None:
    """Db2 and Informix run setuid, so that the preload cannot help; they have settings for it."""
    made = planned(other("theirs", f"/opt/{program}", setuid=True))
    (one,) = made.instances
    assert one.outlook.remedy_id == "hugetlb_2m"
    assert any(setting in line for line in made.paste.database)
    assert all(line.startswith("#") for line in made.paste.database)
    assert f"vm.nr_hugepages = {32 * 512 + 8}" in made.paste.sysctl


def test_the_preload_is_named_only_where_it_can() -> None:
    (one,) = planned(other("theirs", "/opt/theirs")).instances
    assert "the preload can" in reason(one, "hugetlb_2m")
    in_memfd = other("theirs", "/opt/theirs")
    in_memfd["segments"][0]["kind"] = "memfd"
    (one,) = planned(in_memfd).instances
    assert "no setting of its program is known" in reason(one, "hugetlb_2m")
    assert "the preload can" not in reason(one, "hugetlb_2m")
    assert not one.row("preload_hugetlb").usable


@pytest.mark.parametrize("kind", ["php-fpm", "php"])
def test_opcache_takes_pages_first_in_a_web_server_too(kind: str) -> None:
    web = instance("apache2", 0, 20, kind=kind)
    web["segments"] = [segment(128 * MIB, 20, name="zend_shared_alloc")]
    made = planned(instance("main", 16 * GIB, 200, maximum=1000), web)
    assert "# apache2: its OPcache takes huge pages first: 64 pages" in made.paste.sysctl
    assert f"vm.nr_hugepages = {16 * 512 + 64 + 8}" in made.paste.sysctl


def test_opcache_alone_gets_a_pool_and_nothing_that_it_cannot_follow() -> None:
    """500 workers with 2 GiB: the pool is all it takes, for OPcache asks for huge pages by itself."""
    web = instance("php-fpm", 0, 500, kind="php-fpm", data_directory=None, version=None)
    web["segments"] = [segment(2 * GIB, 500)]
    made = planned(web, memory_total_bytes=64 * GIB)
    outlook = made.instances[0].outlook
    assert (outlook.remedy_id, outlook.command) == ("hugetlb_2m", None)
    assert outlook.needs == (
        "vm.nr_hugepages, of which OPcache takes its pages by itself: memory set aside, never swapped"
    )
    assert f"vm.nr_hugepages = {1024 + 8}" in made.paste.sysctl
    assert made.paste.database == ()
    # Started again with the pool, it has its pages there, and they are counted once.
    web["segments"] = [segment(2 * GIB, 500, kind="hugetlb", page_bytes=2 * MIB)]
    after = planned(
        web,
        instance("main", 16 * GIB, 200, maximum=1000),
        huge_page_pools=[pool(2 * MIB, total=1032, free=8), pool(GIB)],
    )
    assert after.instances[0].outlook.done is not None
    assert f"vm.nr_hugepages = {1024 + 16 * 512 + 8}" in after.paste.sysctl


def test_a_host_where_nothing_is_shared_has_a_verdict_too() -> None:
    """MySQL, or workers that share nothing: what they take at their maximum may be too much."""
    alone = instance("mysqld", 0, 1, kind="other")
    alone["page_tables"].update(sum_bytes=400 * MIB, remainder_bytes=400 * MIB)
    shown = screen(planned(alone))
    assert shown.startswith("db7: fine: page tables 400 MiB now (measured)")
    assert "No shared memory of 2 MiB or more, so nothing to plan: mysqld." in shown


# -- as people reported it


def test_pages_of_1_gib_by_default_and_a_postgresql_that_cannot_choose() -> None:
    """CrunchyData/postgres-operator#3126: a node with one page of 1 GiB by default, and PostgreSQL 13."""
    one = instance("hippo", 256 * MIB, 30, maximum=100, version="13", manager="kubernetes")
    made = planned(
        one,
        memory_total_bytes=16265276 * KIB,
        huge_page_default_bytes=GIB,
        huge_page_pools=[pool(2 * MIB), pool(GIB, total=1, free=1)],
    )
    (planned_one,) = made.instances
    assert "takes pages of the default size, which is 1 GiB on this host" in reason(planned_one, "hugetlb_2m")
    assert planned_one.outlook.remedy_id != "hugetlb_2m"
    assert not any("huge_page" in line for line in made.paste.database)


def test_a_pod_whose_limit_is_some_pages_short() -> None:
    """Tanguille/cluster#4150: shared_buffers of 1 GB take 556 pages, and the limit of the pod is 512."""
    file = "/sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice/hugetlb.2MB.max"
    limit = {"resource": "hugetlb 2MB", "file": file, "limit_bytes": GIB}
    one = instance("pg-1", 1111 * MIB, 40, maximum=150, manager="kubernetes", limits=[limit])
    made = planned(one, huge_page_pools=[pool(2 * MIB, total=2048, free=2048), pool(GIB)])
    assert f"# pg-1: {file} allows 1 GiB of 1.1 GiB; raise it first" in made.paste.sysctl
    assert "# pg-1: 1.1 GiB / 2 MiB, rounded up: 556 pages, 1 MiB wasted" in made.paste.sysctl
    assert "vm.nr_hugepages = 2048" in made.paste.sysctl


def test_a_server_that_did_not_start_for_want_of_pages() -> None:
    """autobase-tech/autobase#602: 112 GB of shared_buffers requested 123,243,331,584 bytes."""
    made = planned(instance("main", 123_243_331_584, 60, maximum=100))
    pages = next(int(line.split()[-1]) for line in made.paste.sysctl if line.startswith("vm.nr_hugepages"))
    assert pages == -(-123_243_331_584 // (2 * MIB)) + 8


def test_a_pod_on_a_node_without_huge_pages_is_collapsed_from_the_node() -> None:
    """A library that is not in its image is no advice; process_madvise needs nothing in the pod."""
    pod = "pod a1b2c3d4-0000 container 0123456789ab"
    one = instance("pg-1", 32 * GIB, 200, maximum=1000, manager="kubernetes", container=pod)
    outlook = planned(one, huge_page_default_bytes=None, huge_page_pools=[]).instances[0].outlook
    assert (outlook.remedy_id, outlook.command) == ("collapse", f"mshare collapse {min(one['pids'])}")


def test_thousands_of_granules_are_planned_as_one_segment_would_be() -> None:
    """Oracle's AMM: 4 GiB are 256 files of 16 MiB, side by side. Their formula is one line."""
    granules = instance("ORCL", 0, 300, maximum=1000, kind="oracle")
    start = 32 << 40
    granules["segments"] = [
        segment(
            16 * MIB, 300, kind="posix", name=f"/dev/shm/ora_ORCL_{number}", address=start + number * 16 * MIB
        )
        for number in range(256)
    ]
    (one,) = planned(granules).instances
    whole = instance("whole", 0, 300, maximum=1000, kind="oracle")
    whole["segments"] = [segment(4 * GIB, 300, kind="posix", name="/dev/shm/ora_ORCL_0", address=start)]
    (other_one,) = planned(whole).instances
    row, other_row = one.row("collapse"), other_one.row("collapse")
    assert abs(row.after_bytes - other_row.after_bytes) <= 1000 * 16 * KIB
    assert len(row.formula) < 300
    assert "Automatic Memory Management" in reason(one, "hugetlb_2m")
