# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which remedy each server gets, by surveys of hosts that never were."""

from __future__ import annotations

from typing import Any

import pytest

from mshare.errors import Conflict, InvalidRequest
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.spec import NATIVE
from mshare.remedy import decide as deciding
from mshare.remedy.decide import Choice, Decision, counted, decide
from mshare.remedy.recorded import Entry, Recorded
from mshare.remedy.spec import RemedySpec
from mshare.survey.record import Survey, from_fields
from mshare.units import GIB, MIB
from rig import surveys

DATA = "/var/lib/postgresql/15/main"
LIES_WRONG = 0x7F0000001000


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing runs; each data directory is a cluster's. What is asked about is noted."""
    asked: list[str] = []

    def at(data_directory: str) -> Cluster:
        asked.append(data_directory)
        version, name = data_directory.split("/")[-2:]
        return Cluster(version, name, data_directory, 0, 0, f"/etc/postgresql/{version}/{name}", "/usr/bin")

    monkeypatch.setattr(deciding.clusters, "at", at)
    monkeypatch.setattr(Cluster, "managed", lambda cluster: cluster)
    monkeypatch.setattr(deciding.evidence, "postmasters", list)
    return asked


def postgresql(name: str = "postgresql 5432", size_bytes: int = 64 * GIB, **fields: Any) -> dict[str, Any]:
    return surveys.instance(name, size_bytes, 50, 100, **{"data_directory": DATA, **fields})


def surveyed(*instances: dict[str, Any]) -> Survey:
    return from_fields(surveys.survey("db", list(instances)))


def segment(**fields: Any) -> dict[str, Any]:
    return surveys.segment(64 * GIB, 50, **fields)


def decided(*instances: dict[str, Any], recorded: Recorded | None = None, **spec: Any) -> Decision:
    return decide(RemedySpec(**spec), surveyed(*instances), recorded or Recorded())


def entry(remedy: str, pages: str | None) -> Entry:
    return Entry("15", "main", DATA, remedy, pages, None, None)


def test_auto_is_what_the_plan_recommends(host: list[str]) -> None:
    decision = decided(postgresql())
    (choice,) = decision.choices
    assert decision.plan.instances[0].outlook.remedy_id == "hugetlb_2m"
    assert (choice.remedy, choice.why) == (NATIVE, "the plan recommends it")
    assert choice.spec is not None
    assert (choice.spec.pages, choice.page_bytes) == (NATIVE, 2 * MIB)
    assert DATA in host


def test_what_saves_little_is_applied_only_if_it_is_asked_for() -> None:
    small = postgresql(size_bytes=GIB)
    assert decided(small).plan.instances[0].outlook.optional
    assert decided(small).choices == ()
    assert "mshare_remedy=native applies it all the same" in decided(small).passed[0].reason
    assert [choice.remedy for choice in decided(small, remedy="native").choices] == ["native"]


@pytest.mark.parametrize(
    ("remedy", "address", "pages", "prefault", "pooled"),
    [
        ("native", 1 << 40, "native", None, True),
        ("hugetlb", 1 << 40, "hugetlb", None, True),
        ("thp", 1 << 40, "thp", None, False),
        ("collapse", 1 << 40, None, None, False),
        # Where nothing can be collapsed, the next start places it.
        ("collapse", LIES_WRONG, "thp", False, False),
    ],
)
def test_what_a_remedy_is(
    remedy: str, address: int, pages: str | None, prefault: bool | None, pooled: bool
) -> None:
    lies = segment(address=address, congruent_2mib=address % (2 * MIB) == 0)
    (choice,) = decided(postgresql(segments=[lies]), remedy=remedy).choices
    assert (choice.remedy, choice.why, choice.page_bytes is not None) == (
        remedy,
        "it was asked for",
        pooled,
    )
    assert (None if choice.spec is None else choice.spec.pages) == pages
    if choice.spec is not None:
        assert choice.spec.prefault == prefault


def test_what_is_done_already_is_left_alone() -> None:
    huge = postgresql(segments=[segment(kind="hugetlb", page_bytes=2 * MIB)])
    for remedy in ("auto", "native", "thp"):
        decision = decided(huge, remedy=remedy)
        assert decision.choices == ()
        assert "in huge pages already" in decision.passed[0].reason


@pytest.mark.parametrize("remedy", ["auto", "native"])
def test_what_an_earlier_run_chose_stays(remedy: str) -> None:
    huge = postgresql(segments=[segment(kind="hugetlb", page_bytes=2 * MIB)])
    decision = decided(huge, remedy=remedy, recorded=Recorded(entries=(entry("native", "native"),)))
    (choice,) = decision.choices
    assert (choice.remedy, choice.why) == ("native", "an earlier run chose it")


def test_another_remedy_than_an_earlier_run_chose() -> None:
    huge = postgresql(segments=[segment(kind="hugetlb", page_bytes=2 * MIB)])
    (choice,) = decided(huge, remedy="thp", recorded=Recorded(entries=(entry("native", "native"),))).choices
    assert choice.spec is not None
    assert (choice.remedy, choice.spec.pages) == ("thp", "thp")


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (surveys.instance("oracle ORCL", GIB, 50, 100, kind="oracle", sid="ORCL"), "it is no PostgreSQL"),
        (postgresql(data_directory=None), "its data directory may not be read"),
        (postgresql(size_bytes=0), "it has no shared memory of 2 MiB or more"),
    ],
)
def test_what_is_reported_and_left_alone(instance: dict[str, Any], words: str) -> None:
    decision = decided(instance)
    assert decision.choices == ()
    assert words in decision.passed[0].reason


def test_a_remedy_that_is_not_open_is_refused_with_its_reasons() -> None:
    with pytest.raises(Conflict, match=r"remedy native is not open to postgresql 5432.*sysv"):
        decided(postgresql(settings={"shared_memory_type": "sysv"}), remedy="native")


def test_an_instance_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="'pg 1' is not on this host; its instances are postgresql 5432"):
        decided(postgresql(), instances=("pg 1",))


def test_a_name_without_its_unit_is_enough_where_it_means_one() -> None:
    named = postgresql("postgresql 5432 (postgresql@15-main)")
    assert [each.instance for each in decided(named, instances=("postgresql 5432",)).choices] == [
        "postgresql 5432 (postgresql@15-main)"
    ]
    other = postgresql("postgresql 5432 (box)", data_directory="/var/lib/postgresql/15/other")
    with pytest.raises(InvalidRequest, match=r"'postgresql 5432' is more than one on this host"):
        decided(named, other, instances=("postgresql 5432",))
    with pytest.raises(InvalidRequest, match=r"'postgresql 543' is not on this host"):
        decided(named, instances=("postgresql 543",))


def test_only_what_is_named() -> None:
    other = postgresql("postgresql 5433", data_directory="/var/lib/postgresql/15/other")
    decision = decided(postgresql(), other, instances=("postgresql 5433",))
    assert [choice.instance for choice in decision.choices] == ["postgresql 5433"]
    assert decision.passed == ()


def test_a_server_that_something_else_manages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding.evidence, "postmasters", lambda: [(1000, "/proc/1000/cwd")])
    monkeypatch.setattr(deciding.evidence, "of_process", lambda pid: f"evidence of {pid}")

    def refuse(name: str, found: str) -> None:
        raise Conflict(f"{name}: {found}")

    monkeypatch.setattr(deciding.choose, "require_supported", refuse)
    with pytest.raises(Conflict, match="postgresql 5432: evidence of 1000"):
        decided(postgresql())


def test_who_is_counted_for_the_pool() -> None:
    other = postgresql("tries", data_directory="/data/15/tries", huge_pages_requested="try")
    without = postgresql("does not", data_directory="/data/15/not", huge_pages_requested="off")
    survey = surveyed(postgresql(huge_pages_requested="off"), other, without)
    (choice,) = decide(RemedySpec("native", ("postgresql 5432",)), survey, Recorded()).choices
    assert isinstance(choice, Choice)
    assert counted(survey, (choice,)) == ("postgresql 5432", "tries")


@pytest.mark.parametrize(
    ("version", "default_bytes", "set_to", "page_bytes"),
    [
        ("15", 2 * MIB, None, 2 * MIB),
        ("15", 2 * MIB, "1GB", GIB),
        ("15", 2 * MIB, "0", 2 * MIB),
        ("15", 2 * MIB, "2048", 2 * MIB),
        # With default_hugepagesz=1G as well; an older one cannot ask for them.
        ("15", GIB, None, 2 * MIB),
        ("13", GIB, None, GIB),
        ("9.6", GIB, None, GIB),
    ],
)
def test_which_pool_it_takes_pages_of(
    version: str, default_bytes: int, set_to: str | None, page_bytes: int
) -> None:
    settings = {} if set_to is None else {"huge_page_size": set_to}
    made = surveys.survey("db", [postgresql(version=version, settings=settings, huge_pages_requested="try")])
    made["host"]["huge_page_default_bytes"] = default_bytes
    survey = from_fields(made)
    (choice,) = decide(RemedySpec("native"), survey, Recorded()).choices
    assert choice.page_bytes == page_bytes
    # Nobody makes a pool of 2 MiB pages for one that takes others, whether it is chosen or not.
    expected = ("postgresql 5432",) if page_bytes == 2 * MIB else ()
    assert counted(survey, (choice,)) == counted(survey, ()) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"remedy": "magic"}, "remedy 'magic' is unknown; write one of auto"), ({"probes": -1}, "is negative")],
)
def test_wishes_that_make_no_sense(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        RemedySpec(**fields)
