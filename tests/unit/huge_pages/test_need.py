# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many pages a host needs: each term, where its figure comes from, and how it is divided among nodes."""

from __future__ import annotations

from typing import Any

import pytest

from mshare.errors import Conflict, InvalidRequest
from mshare.host.huge_pages import Pool
from mshare.huge_pages import need
from mshare.huge_pages.need import Term
from mshare.huge_pages.spec import PoolRequest, make
from mshare.postgresql.sizing import Server, Unanswered
from mshare.survey.record import Survey, from_fields
from mshare.units import GIB, KIB, MIB
from rig import surveys

EMPTY = Pool(2 * MIB, None, 0, 0, 0, 0, 0)


def silent(server: Server, page_bytes: int) -> int:
    raise Unanswered("it does not answer")


def host(*instances: dict[str, Any]) -> Survey:
    return from_fields(surveys.survey("db", list(instances)))


def terms(*instances: dict[str, Any], page_bytes: int = 2 * MIB, **options: Any) -> tuple[Term, ...]:
    spec = make([{"wanted": "auto"}], spare=0, **options)
    return need.terms(PoolRequest(page_bytes, None), spec, host(*instances), EMPTY, silent)


def postgresql(size_bytes: int, **fields: Any) -> dict[str, Any]:
    return surveys.instance("pg", size_bytes, 4, data_directory="/data", **fields)


def oracle(size_bytes: int, **settings: str) -> dict[str, Any]:
    requested = settings.pop("use_large_pages", None)
    segment = surveys.segment(size_bytes, 4, kind="sysv", key=7)
    fields: dict[str, Any] = {"kind": "oracle", "sid": "ORCL", "segments": [segment]}
    return surveys.instance("oracle ORCL", 0, 4, settings=settings, huge_pages_requested=requested, **fields)


def test_a_postgresql_that_cannot_be_asked_is_counted_by_its_segment_and_the_reason_is_told() -> None:
    (term,) = terms(postgresql(101 * MIB, settings={"shared_buffers": "64MB"}))
    assert (term.pages, term.kind) == (51, "measured")
    assert term.source == "its shared segments, 101 MiB in 1, because it does not answer"


def test_one_that_was_given_more_buffers_since_its_start_is_modelled() -> None:
    (term,) = terms(postgresql(101 * MIB, settings={"shared_buffers": "1GB"}))
    assert (term.pages, term.kind) == (512 + 32 + 8, "modelled")
    assert "shared_buffers of 1 GiB, and 1/16 of that and 16 MiB for the rest" in term.source


@pytest.mark.parametrize(
    ("value", "expected"),
    [("131072", GIB), ("1GB", GIB), ("65536kB", 64 * MIB), ("512 MB", 512 * MIB), ("no", 0), ("1XB", 0)],
)
def test_shared_buffers_in_postgresqls_units(value: str, expected: int) -> None:
    assert need.postgresql_bytes(value, 8 * KIB) == expected


def test_an_old_postgresql_is_not_asked() -> None:
    (term,) = terms(postgresql(100 * MIB, version="14"))
    assert term.source == "its shared segments, 100 MiB in 1, because PostgreSQL 14 cannot say (15 can)"


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (postgresql(GIB, huge_pages_requested="off"), "huge_pages is off; name it in instances"),
        (postgresql(GIB, settings={"huge_page_size": "1GB"}), "it takes pages of 1 GiB"),
        (oracle(GIB, use_large_pages="FALSE"), "use_large_pages is false; name it in instances"),
        (oracle(GIB, memory_target="2G"), "memory_target is set, with which Oracle uses no huge pages"),
    ],
)
def test_who_takes_no_pages_is_not_counted_unless_named(instance: dict[str, Any], reason: str) -> None:
    (term,) = terms(instance)
    assert term.pages == 0
    assert reason in term.source
    (named,) = terms(instance, instances=[instance["name"]])
    assert named.pages >= 512


def test_pages_of_another_size_are_for_who_asks_for_them() -> None:
    large = postgresql(1500 * MIB, settings={"huge_page_size": "1GB"})
    (term,) = terms(large, page_bytes=GIB)
    assert term.pages == 2


def test_the_sga_is_counted_by_its_parameters_and_by_its_segments_if_they_are_larger() -> None:
    (configured,) = terms(oracle(1000 * MIB, sga_target="1G", sga_max_size="2G"))
    assert (configured.pages, configured.kind) == (1024 + 4, "configured")
    assert configured.source == "sga_max_size of 2 GiB, and a page for each of 4 segments"
    (measured,) = terms(oracle(3 * GIB, sga_max_size="2G"))
    assert (measured.pages, measured.kind) == (1536, "measured")
    (unknown,) = terms(oracle(3 * GIB))
    assert unknown.pages == 1536


def test_opcache_takes_pages_wherever_there_are_any() -> None:
    (term,) = terms(surveys.instance("php-fpm", 128 * MIB, 8, kind="php-fpm"))
    assert term.pages == 64
    assert "its OPcache takes huge pages first" in term.source


def test_others_are_counted_only_if_named() -> None:
    workers = surveys.instance("workers", 64 * MIB, 8, kind="python")
    assert terms(workers) == ()
    assert terms(workers, instances=["workers"])[0].pages == 32
    with pytest.raises(InvalidRequest, match="'nobody' is not on this host; its instances are workers"):
        terms(workers, instances=["nobody"])


def test_memory_that_comes_and_goes_is_not_counted() -> None:
    segments = [surveys.segment(64 * MIB, 4), surveys.segment(GIB, 2, kind="posix", short_lived=True)]
    assert terms(postgresql(0, segments=segments))[0].pages == 32


def test_what_an_instance_holds_is_not_counted_twice() -> None:
    huge = surveys.segment(200 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)
    survey = host(postgresql(0, segments=[huge]))
    pool = Pool(2 * MIB, None, 200, 60, 10, 0, 0)
    spec = make([{"wanted": "auto"}], spare="16MiB")
    larger = need.terms(PoolRequest(2 * MIB, None), spec, survey, pool, lambda server, size: 120)
    assert [(term.what, term.pages) for term in larger] == [
        ("pg", 120),
        ("pages that others hold", 50),
        ("spare", 8),
    ]
    # One that will need less holds what it has until it is restarted.
    smaller = need.terms(PoolRequest(2 * MIB, None), spec, survey, pool, lambda server, size: 40)
    assert [(term.what, term.pages) for term in smaller] == [
        ("pg", 40),
        ("pg, until it is restarted", 60),
        ("pages that others hold", 50),
        ("spare", 8),
    ]


def test_a_cgroup_that_allows_less_is_named() -> None:
    limit = {"resource": "hugetlb 2MB", "file": "/sys/fs/cgroup/db/hugetlb.2MB.max", "limit_bytes": 10 * MIB}
    with pytest.raises(Conflict) as refused:
        terms(postgresql(100 * MIB, limits=[limit]))
    assert "pg needs 50 huge pages (100 MiB), but its cgroup allows 10 MiB" in str(refused.value)
    assert "/sys/fs/cgroup/db/hugetlb.2MB.max" in str(refused.value)


def test_what_the_host_needs_is_divided_among_nodes_but_not_below_what_they_use() -> None:
    pools = {
        (2 * MIB, None): Pool(2 * MIB, None, 80, 20, 0, 0, 0),
        (2 * MIB, 0): Pool(2 * MIB, 0, 60, 0, None, 0, None),
        (2 * MIB, 1): Pool(2 * MIB, 1, 20, 20, None, 0, None),
        (2 * MIB, 2): Pool(2 * MIB, 2, 0, 0, None, 0, None),
    }
    spec = make(
        [{"wanted": "auto", "node": 0}, {"wanted": "auto", "node": 1}, {"wanted": 11, "node": 2}], spare=0
    )
    made = need.targets(spec, host(postgresql(50 * MIB)), pools, silent)
    # 25 for the database and 60 that others hold, 11 of them on node 2.
    assert [(target.node, target.wanted) for target in made] == [(0, 60), (1, 37), (2, 11)]
    assert made[0].formula[0].source == "pg 25 + pages that others hold 60 - 11 on other nodes"
    assert all(target.wanted == sum(term.pages for term in target.formula) for target in made)
