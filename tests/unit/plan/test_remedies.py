# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each remedy costs a segment, and what speaks against it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.kernel.generations import DESCRIBED, GENERATIONS
from mshare.pagetable import page_tables, totals
from mshare.plan.facts import Host, Instance, Pool, Segment
from mshare.plan.remedies import NOTHING, REMEDIES, Case, cost, refusals
from mshare.units import GIB, KIB, MIB, TIB

SIZE = 300 * GIB
TABLE = 4 * KIB
BY_ID = {remedy.id: remedy for remedy in REMEDIES}
MSHARE = [f"mshare_{generation}" for generation in GENERATIONS]

OPEN_HOST = Host(
    surveyed=True,
    kernel="6.12.0",
    memory_total_bytes=TIB,
    thp_shmem="never",
    pools={2 * MIB: Pool(0, 0), GIB: Pool(0, 0)},
    kernel_has_mshare=True,
)


def test_an_interface_that_was_not_posted_is_no_remedy():
    assert DESCRIBED
    assert not [remedy.id for remedy in REMEDIES if remedy.generation in DESCRIBED]


def host_of(remedy):
    """A host that has what a remedy takes, the generation included."""
    return replace(OPEN_HOST, generation=remedy.generation)


def case(size_bytes=SIZE, clients=1500, pool_to=150, host=OPEN_HOST, instance=(), **segment):
    one = Segment(
        **{
            "kind": "anonymous",
            "name": "shared",
            "size_bytes": size_bytes,
            "address": TIB,
            "congruent_2mib": True,
            "aligned_1gib": True,
            **segment,
        }
    )
    whole = Instance("sga", "postgresql", (one,), clients, "max_connections", processes=clients)
    return Case(one, replace(whole, **dict(instance)), host, clients, pool_to)


def test_the_remedies_are_those_that_are_promised_in_their_order():
    assert [remedy.id for remedy in REMEDIES] == [
        "nothing",
        "pooling",
        "thp_shmem",
        "collapse",
        "preload_thp",
        "preload_hugetlb",
        "hugetlb_2m",
        "hugetlb_1g",
        "hugetlb_pmd_sharing",
        *MSHARE,
    ]


# remedy, tables after, faults of a client, faults once: 300 GiB x 1,500
EXPECTED = [
    ("nothing", 1500 * (153_600 + 300 + 1), 78_643_200, 0),
    ("pooling", 150 * (153_600 + 300 + 1), 78_643_200, 0),
    ("thp_shmem", 1500 * (300 + 1), 153_600, 0),
    ("collapse", 1500 * (300 + 1), 153_600, 0),
    ("preload_thp", 1500 * (300 + 1), 153_600, 0),
    ("preload_hugetlb", 1500 * (300 + 1), 153_600, 0),
    ("hugetlb_2m", 1500 * (300 + 1), 153_600, 0),
    ("hugetlb_1g", 1500 * 1, 300, 0),
    ("hugetlb_pmd_sharing", 1500 * 1 + 300, 300, 153_600),
    *((name, 153_600 + 300 + 1, 1, 78_643_200) for name in MSHARE),
]


@pytest.mark.parametrize(("name", "tables", "each", "once"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_what_300_gib_for_1500_clients_costs(name, tables, each, once):
    found = cost(BY_ID[name], case())
    assert found.tables_bytes == tables * TABLE
    assert (found.faults_per_client, found.faults_once) == (each, once)
    assert found.memory_bytes == SIZE
    assert found.waste_bytes == 0


def test_the_cover_letters_numbers():
    found = cost(NOTHING, case())
    assert found.tables_bytes == totals(SIZE, 1500).without_sharing_bytes
    assert round(found.tables_bytes / GIB, 1) == 880.6
    assert found.formula == "1,500 clients x (153,600 leaf + 300 PMD + 1 PUD) x 4 KiB"


@pytest.mark.parametrize(
    ("name", "memory", "waste"),
    [
        ("nothing", 5 * MIB + 4 * KIB, 0),
        ("hugetlb_2m", 6 * MIB, MIB - 4 * KIB),
        ("hugetlb_1g", GIB, GIB - 5 * MIB - 4 * KIB),
        ("mshare_2025-08", 5 * MIB + 4 * KIB, 0),
    ],
)
def test_huge_pages_are_rounded_up_and_the_waste_is_told(name, memory, waste):
    found = cost(BY_ID[name], case(5 * MIB + 4 * KIB))
    assert (found.memory_bytes, found.waste_bytes) == (memory, waste)


@pytest.mark.parametrize(
    ("address", "size", "own_pmd", "shared_pmd"),
    [
        (TIB, 2 * GIB, 0, 2),
        (TIB + 2 * MIB, 2 * GIB, 2, 1),
        (TIB, 2 * GIB + 2 * MIB, 1, 2),
        (TIB + 2 * MIB, GIB, 2, 0),
    ],
)
def test_pmd_tables_are_shared_for_whole_ranges_only(address, size, own_pmd, shared_pmd):
    found = cost(BY_ID["hugetlb_pmd_sharing"], case(size, clients=10, address=address))
    assert found.tables_bytes == (10 * (own_pmd + 1) + shared_pmd) * TABLE


MEASURED = 100 * (512 + 1 + 1) * TABLE  # 100 processes, 1 GiB of 300 touched


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing", 15 * MEASURED),
        ("pooling", 15 * MEASURED // 10),
        ("hugetlb_2m", 1500 * 301 * TABLE),
        ("mshare_2025-08", (153_600 + 301) * TABLE),
    ],
)
def test_what_was_measured_is_scaled(name, expected):
    found = cost(BY_ID[name], case(page_tables_bytes=MEASURED, processes=100))
    assert found.tables_bytes == expected


def test_a_remedy_is_not_charged_for_ranges_nobody_touched():
    barely = case(page_tables_bytes=100 * 3 * TABLE, processes=100)
    found = cost(BY_ID["hugetlb_2m"], barely)
    assert found.tables_bytes == cost(NOTHING, barely).tables_bytes == 1500 * 3 * TABLE
    assert "not all of it is touched" in found.formula


# remedy, what is different, piece of the reason
REFUSED = [
    ("pooling", {"pool_to": 1500}, "a pool of 1,500 is not smaller than its 1,500 clients"),
    ("pooling", {"clients": 1, "instance": {"threads": 64}}, "one process with 64 threads"),
    ("thp_shmem", {"kind": "file"}, "kind file is not shmem memory"),
    ("thp_shmem", {"kind": "hugetlb", "page_bytes": 2 * MIB}, "huge pages of 2 MiB already"),
    ("thp_shmem", {"huge_bytes": SIZE}, "transparent huge pages map it already"),
    ("thp_shmem", {"host": replace(OPEN_HOST, thp_shmem=None)}, "has no transparent huge pages"),
    ("collapse", {"congruent_2mib": False, "address": 0x7F0000001000}, "0x7f0000001000 is not congruent"),
    ("collapse", {"congruent_2mib": None}, "the survey has none"),
    ("hugetlb_2m", {"kind": "posix"}, "hugetlbfs itself"),
    ("hugetlb_2m", {"kind": "hugetlb", "page_bytes": 2 * MIB}, "huge pages of 2 MiB already"),
    ("hugetlb_2m", {"size_bytes": TIB}, "need 1 TiB and the host has 1 TiB of RAM"),
    ("hugetlb_2m", {"size_bytes": 950 * GIB}, "leaves 74 GiB for everything else"),
    (
        "hugetlb_2m",
        {"instance": {"version": "9.3"}},
        "PostgreSQL 9.3 has no setting huge_pages, which exists since 9.4",
    ),
    (
        "hugetlb_2m",
        {"instance": {"settings": {"shared_memory_type": "sysv"}}},
        "shared_memory_type = mmap first",
    ),
    (
        "hugetlb_2m",
        {"instance": {"kind": "oracle", "settings": {"memory_target": "8G"}}},
        "memory_target = 0",
    ),
    ("hugetlb_2m", {"instance": {"kind": "nginx"}}, "no setting of nginx"),
    ("hugetlb_2m", {"instance": {"kind": "php-fpm"}, "size_bytes": 129 * MIB}, "an even number of MB"),
    # Those of Oracle and PHP, and of PostgreSQL before 14, are of the default size.
    (
        "hugetlb_2m",
        {"host": replace(OPEN_HOST, huge_page_default_bytes=GIB), "instance": {"kind": "oracle"}},
        "Oracle takes pages of the default size, which is 1 GiB on this host",
    ),
    (
        "hugetlb_2m",
        {"host": replace(OPEN_HOST, huge_page_default_bytes=GIB), "instance": {"version": "13"}},
        "PostgreSQL 13 has no huge_page_size, which exists since 14, and takes pages of the default size",
    ),
    ("hugetlb_1g", {"instance": {"kind": "oracle"}}, "which is 2 MiB on this host"),
    ("hugetlb_1g", {"instance": {"kind": "php-fpm"}}, "OPcache takes pages of the default size"),
    ("hugetlb_2m", {"instance": {"kind": "python"}}, "no setting of python"),
    ("pooling", {"instance": {"kind": "python"}}, "python workers are not connections"),
    ("pooling", {"instance": {"kind": "nginx"}}, "nginx workers are not connections"),
    (
        "collapse",
        {"host": replace(OPEN_HOST, kernel="5.14.0-427.el9")},
        "has no MADV_COLLAPSE, which exists since Linux 6.1",
    ),
    (
        "preload_thp",
        {"host": replace(OPEN_HOST, kernel="6.0.1")},
        "has no MADV_COLLAPSE, which exists since Linux 6.1",
    ),
    ("collapse", {"host": replace(OPEN_HOST, thp_shmem="deny")}, "shmem_enabled is deny"),
    ("thp_shmem", {"host": replace(OPEN_HOST, thp_shmem="deny")}, "shmem_enabled is deny"),
    (
        "collapse",
        {"instance": {"thp_disabled": True}},
        "switched off (prctl PR_SET_THP",
    ),
    (
        "preload_thp",
        {"instance": {"thp_disabled": True}},
        "switched off (prctl PR_SET_THP",
    ),
    ("preload_hugetlb", {"instance": {"setuid": True}}, "ignores a preloaded library"),
    ("preload_thp", {"instance": {"manager": "container", "container": "container 0123456789ab"}}, "image"),
    ("preload_hugetlb", {"instance": {"manager": "kubernetes"}}, "from the image of a container"),
    ("preload_thp", {"instance": {"manager": "patroni", "container": "pod a1b2c3d4-0000"}}, "image"),
    ("preload_hugetlb", {"kind": "posix"}, "this segment is of kind posix"),
    ("hugetlb_1g", {"size_bytes": GIB - 1}, "less than one page of 1 GiB"),
    ("hugetlb_1g", {"host": replace(OPEN_HOST, pools={})}, "no pdpe1gb"),
    (
        "hugetlb_1g",
        {"instance": {"version": "13.4"}},
        "PostgreSQL 13.4 has no huge_page_size, which exists since 14",
    ),
    (
        "hugetlb_pmd_sharing",
        {"aligned_1gib": False, "address": TIB + 2 * MIB},
        "299 PMD tables could",
    ),
    ("hugetlb_pmd_sharing", {"size_bytes": GIB - 1}, "less than the 1 GiB of one PMD table"),
    ("hugetlb_pmd_sharing", {"kind": "hugetlb", "page_bytes": GIB}, "which have no PMD tables"),
    ("hugetlb_pmd_sharing", {"clients": 1}, "its page tables exist only once"),
    *((name, {"host": Host()}, "no released kernel has mshare") for name in MSHARE),
    *((name, {"instance": {"setuid": True}}, "setuid") for name in MSHARE),
    ("mshare_2025-08", {"host": replace(OPEN_HOST, kernel_has_mshare=False)}, "6.12.0 has no msharefs"),
    ("mshare_2025-08", {"host": OPEN_HOST}, "which generation is unknown until it is mounted"),
    ("mshare_2025-04", {"host": replace(OPEN_HOST, generation="2025-08")}, "has generation 2025-08"),
    ("mshare_2025-08", {"clients": 1, "instance": {"threads": 9}}, "one process with 9 threads"),
    ("mshare_2025-04", {"kind": "file"}, "takes anonymous and the segment is of kind file"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSED)
def test_why_a_remedy_is_not_open(name, changes, reason):
    changes = {"host": host_of(BY_ID[name]), **changes}
    reasons = refusals(BY_ID[name], case(**changes))
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize("instance", [{"kind": "oracle"}, {"version": "13"}])
def test_pages_of_1_gib_are_had_by_default_where_that_is_the_size(instance):
    host = replace(OPEN_HOST, huge_page_default_bytes=GIB)
    assert refusals(BY_ID["hugetlb_1g"], case(host=host, instance=instance)) == []


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda remedy: remedy.id)
def test_all_are_open_where_nothing_speaks_against_them(remedy):
    assert refusals(remedy, case(host=host_of(remedy))) == []


def test_files_and_huge_pages_go_into_the_newest_regions():
    for changes in ({"kind": "file"}, {"kind": "hugetlb", "page_bytes": 2 * MIB}):
        newest = BY_ID["mshare_2025-08"]
        assert refusals(newest, case(host=host_of(newest), **changes)) == []


@given(
    size=st.integers(2 * MIB, 2 * TIB),
    clients=st.integers(1, 40_000),
    pool_to=st.integers(1, 40_000),
    start=st.integers(0, 1 << 20).map(lambda pages: pages * TABLE),
    processes=st.integers(0, 500),
    share=st.floats(0, 1),
)
def test_no_remedy_costs_more_than_nothing(size, clients, pool_to, start, processes, share):
    full = processes * page_tables(size, start=start).total_bytes
    measured = int(full * share) if processes else None
    one = case(size, clients, pool_to, address=start, page_tables_bytes=measured, processes=processes)
    without = cost(NOTHING, one)
    for remedy in REMEDIES:
        found = cost(remedy, one)
        # Rounded up to huge pages a segment may reach into one range more of the upper levels.
        assert 0 <= found.tables_bytes <= without.tables_bytes
        assert found.memory_bytes - found.waste_bytes <= -(-size // TABLE) * TABLE
        assert found.faults_per_client >= 1
        assert found.clients <= clients
