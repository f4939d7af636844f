# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare postgresql: what its options become, and what it shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mshare import record
from mshare.cli import mshare, postgresql
from mshare.converge.outcome import ABSENT, Outcome
from mshare.errors import InvalidRequest
from mshare.postgresql.facts import ClusterFacts, Costs, PostgresqlFacts
from mshare.postgresql.native import HugePages
from mshare.postgresql.spec import ClusterSpec
from mshare.units import MIB

FILE = "/etc/postgresql/15/main/conf.d/mshare.conf"
FACTS = PostgresqlFacts(
    cluster=ClusterFacts("15", "main", "/var/lib/postgresql/15/main", True, 7, "5432"),
    restart_required=False,
    restart_reason=None,
    restarted=False,
    lost=None,
    segment=None,
    backend_segment=None,
    huge_pages=HugePages("off", "zz-dbmem-mshare.conf", False, None),
    align_only=False,
    page_tables=Costs(),
    summary=("PostgreSQL cluster 15-main, postmaster 7",),
)
DONE = Outcome(True, [f"write {FILE}"], {FILE: ABSENT}, {FILE: ["huge_pages = off", ""]}, FACTS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the library is asked for; it answers with DONE."""
    found: list[tuple[Any, ...]] = []

    def present(spec: ClusterSpec, **how: Any) -> Outcome[PostgresqlFacts]:
        found.append((spec, how))
        return DONE

    def absent(**how: Any) -> Outcome[PostgresqlFacts]:
        found.append((None, how))
        return Outcome(False, [], {}, {}, FACTS)

    monkeypatch.setattr(postgresql, "postgresql_present", present)
    monkeypatch.setattr(postgresql, "postgresql_absent", absent)
    monkeypatch.setattr(postgresql, "postgresql_status", lambda **how: FACTS)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(mshare, ["postgresql", *words])


def test_present_asks_for_what_the_options_name(calls: list[tuple[Any, ...]]) -> None:
    words = (
        "--version",
        "15",
        "--cluster",
        "main",
        "--pages",
        "4k",
        "--region",
        "sga",
        "--threshold",
        "8MiB",
    )
    assert run("present", *words, "--restart", "--require", "--check").exit_code == 0
    ((spec, how),) = calls
    assert (spec.pages, spec.region, spec.threshold_bytes, spec.require) == ("4k", "sga", 8 * MIB, True)
    assert how == {
        "version": "15",
        "name": "main",
        "restart": True,
        "probes": 10,
        "members_ready": False,
        "check": True,
    }


def test_a_check_says_what_would_be_done_and_a_diff_shows_the_text(calls: list[tuple[Any, ...]]) -> None:
    assert run("present", "--check", "--diff").output.splitlines() == [
        f"--- {FILE}",
        f"+++ {FILE}",
        "@@ -0,0 +1,2 @@",
        "+huge_pages = off",
        "+",
        f"Would write {FILE}.",
        "PostgreSQL cluster 15-main, postmaster 7",
    ]


def test_what_is_absent_already_is_left_alone(calls: list[tuple[Any, ...]]) -> None:
    lines = run("absent").output.splitlines()
    assert lines == ["Nothing to do.", "PostgreSQL cluster 15-main, postmaster 7"]


def test_the_answer_in_json_is_the_modules(calls: list[tuple[Any, ...]]) -> None:
    answer = json.loads(run("present", "--json").output)
    assert (answer["changed"], answer["check"], answer["actions"]) == (True, False, [f"write {FILE}"])
    assert answer["cluster"] == record.to_fields(FACTS.cluster)
    assert answer["page_tables"] == {"before": None, "after": None}
    assert json.loads(run("status", "--json").output)["summary"] == list(FACTS.summary)


def test_a_region_with_huge_pages_is_refused(calls: list[tuple[Any, ...]]) -> None:
    with pytest.raises(InvalidRequest, match="a region keeps the pages"):
        ClusterSpec("thp", region="sga")
    assert run("present", "--region", "sga").exit_code == 2
    assert calls == []
