# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's report: its figures, its three files, and what strangers' texts must not do to it."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mshare.errors import Unavailable
from mshare.pagetable import page_tables
from mshare.report import chart, files, table
from mshare.report.fleet import Fleet, Missing, fleet
from mshare.report.remedies import HUGE, MSHARE, REMEDIES
from mshare.units import GIB, MIB
from rig import surveys

DB1 = surveys.survey("db1", [surveys.instance("main", 64 * GIB, 100, maximum=300)])
DB2 = surveys.survey("db2", [surveys.instance("big", 300 * GIB, 200), surveys.instance("web", 0, 10)])
UNREACHABLE = {"unreachable": True, "msg": "ssh: connect to host db3 port 22:\nNo route to host"}


@pytest.fixture
def two() -> Fleet:
    return fleet({"db1": DB1, "db2": DB2})


def sum_of(survey: dict[str, Any]) -> int:
    return sum(one["page_tables"]["sum_bytes"] for one in survey["instances"])


# -- figures


def test_hosts_and_instances_come_with_most_page_tables_first(two: Fleet) -> None:
    assert [host.name for host in two.hosts] == ["db2", "db1"]
    assert [one.name for one in two.instances] == ["big", "main", "web"]


def test_totals_are_the_hosts_own_figures(two: Fleet) -> None:
    assert two.in_instances_bytes == sum_of(DB1) + sum_of(DB2)
    assert two.page_tables_bytes == two.in_instances_bytes + 2 * 64 * MIB
    assert [host.outside_bytes for host in two.hosts] == [64 * MIB, 64 * MIB]


def test_hosts_on_one_kernel_are_counted_once_and_named() -> None:
    one, two, three = (surveys.survey(name, []) for name in ("one", "two", "three"))
    two["host"]["boot_id"] = one["host"]["boot_id"]
    # Read a moment later.
    two["host"]["page_tables_bytes"] += MIB
    found = fleet({"one": one, "two": two, "three": three})
    assert found.page_tables_bytes == 2 * 64 * MIB + MIB
    assert found.memory_bytes == 2 * 512 * GIB
    assert "one, two run on one kernel: counted once in the totals" in found.summary_lines()
    assert found.to_dict()["totals"]["kernels"] == 2
    assert "one, two run on one kernel" in files.contents({"one": one, "two": two})[1]["report.html"]


def test_hosts_whose_survey_does_not_name_its_kernel_are_counted_each() -> None:
    one, two = (surveys.survey(name, []) for name in ("one", "two"))
    del one["host"]["boot_id"], two["host"]["boot_id"]
    assert fleet({"one": one, "two": two}).page_tables_bytes == 2 * 64 * MIB


def test_what_could_not_be_read_is_no_figure() -> None:
    unread = surveys.instance("main", 0, 10)
    unread["page_tables"].update(segments_bytes=None, remainder_bytes=None)
    (one,) = fleet({"db1": surveys.survey("db1", [unread])}).instances
    assert one.page_tables_segments_bytes is None
    assert one.page_tables_bytes == 10 * surveys.PROCESS_BYTES


def test_the_maximum_counts_only_where_it_is_known(two: Fleet) -> None:
    assert two.at_maximum_bytes == 3 * sum_of(DB1) + sum_of(DB2)
    assert two.at_maximum_kind == "projected"
    assert fleet({"db2": DB2}).at_maximum_kind == "measured"


def test_mshare_pays_for_one_set_of_tables(two: Fleet) -> None:
    main = next(one for one in two.instances if one.name == "main").saving(MSHARE)
    one_set = page_tables(64 * GIB).total_bytes
    assert main.now.saved_bytes == 99 * one_set
    assert main.maximum.saved_bytes == 299 * one_set
    assert main.usable == 0


def test_huge_pages_leave_out_the_leaf_tables(two: Fleet) -> None:
    main = next(one for one in two.instances if one.name == "main").saving(HUGE)
    assert main.now.saved_bytes == 100 * page_tables(64 * GIB).leaf_bytes


def test_a_fleets_saving_is_the_sum_of_its_instances(two: Fleet) -> None:
    for remedy in REMEDIES:
        assert two.saving(remedy).now.saved_bytes == sum(
            one.saving(remedy).now.saved_bytes for one in two.instances
        )
    assert two.mshare.instances == 3


def test_a_fleet_of_nobody() -> None:
    found, made = files.contents({}, [Missing("db1", "unreachable")])
    assert (found.page_tables_bytes, found.mshare.now.saved_bytes) == (0, 0)
    assert 'id="chart"' not in made["report.html"]


# -- who is missing


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (UNREACHABLE, "unreachable: ssh: connect to host db3 port 22: No route to host"),
        ({"failed": True, "msg": "no Python here"}, "failed: no Python here"),
        ({"skipped": True}, "not surveyed in this run"),
        (None, "not surveyed in this run"),
    ],
)
def test_a_host_without_a_survey_is_missing_with_the_reason(result: Any, reason: str) -> None:
    assert files.from_results({"db3": result}) == ({}, [Missing("db3", reason)])


@pytest.mark.parametrize(
    ("survey", "said"),
    [
        ({"schema_version": 1}, "schema_version is 1 and must be 2"),
        ("nonsense", "schema_version"),
        ({**DB1, "host": {}}, "the survey of db1 has no field host.name"),
        ({**DB1, "instances": [{}]}, "has no field instances[0].name"),
        ({**DB1, "others": None}, "has None for others where an object is needed"),
    ],
)
def test_a_survey_that_cannot_be_read_makes_its_host_missing(survey: Any, said: str) -> None:
    found = fleet({"db1": survey, "db2": DB2})
    assert [host.name for host in found.hosts] == ["db2"]
    assert said in found.missing[0].reason


def test_what_a_host_could_not_read_is_told() -> None:
    unread = [{"pid": 7, "what": "maps", "reason": "EACCES"}]
    found = fleet({"db1": {**DB1, "complete": False, "missing": unread, "vanished": 2}})
    assert found.hosts[0].remarks == ("1 not read (EACCES)", "2 ended meanwhile")


# -- files


def test_the_same_fleet_makes_the_same_files(tmp_path: Path) -> None:
    made = [files.contents({"db1": DB1})[1] for __ in range(2)]
    assert made[0] == made[1]
    folder = str(tmp_path / "new" / "folder")
    assert files.changed(folder, made[0]) == ["report.html", "report.json", "report.csv"]
    files.write(folder, made[0])
    assert files.changed(folder, made[1]) == []


def test_a_report_is_made_again_from_what_it_stored(tmp_path: Path) -> None:
    surveyed, lost = files.from_results({"db1": {"survey": DB1}, "db3": UNREACHABLE})
    made = files.contents(surveyed, lost)[1]
    files.write(str(tmp_path), made)
    assert files.contents(*files.gathered({}, [str(tmp_path / "report.json")]))[1] == made


def test_stored_surveys_are_named_after_their_hosts(tmp_path: Path) -> None:
    (tmp_path / "db1.json").write_text(json.dumps(DB1))
    (tmp_path / "db4.json").write_text("{")
    surveyed, lost = files.from_files([str(tmp_path)])
    assert surveyed == {"db1": DB1}
    assert [one.host for one in lost] == ["db4"]


def test_what_a_host_says_in_this_run_counts_more_than_what_is_stored(tmp_path: Path) -> None:
    (tmp_path / "db1.json").write_text(json.dumps(DB1))
    (tmp_path / "db2.json").write_text(json.dumps(DB2))
    surveyed, lost = files.gathered({"db1": UNREACHABLE}, [str(tmp_path)])
    assert list(surveyed) == ["db2"]
    assert [one.host for one in lost] == ["db1"]


def test_every_instance_and_every_missing_host_has_a_line_of_csv(two: Fleet) -> None:
    lost = fleet({"db1": DB1, "db2": DB2}, [Missing("db3", "unreachable")])
    rows = list(csv.DictReader(io.StringIO(table.table(lost))))
    assert [(row["host"], row["state"], row["instance"]) for row in rows] == [
        ("db2", "complete", "big"),
        ("db2", "complete", "web"),
        ("db1", "complete", "main"),
        ("db3", "missing", ""),
    ]
    assert rows[3]["remarks"] == "unreachable"


# -- texts of strangers


EVIL = '<script>alert(1)</script>"&'


def test_nothing_a_host_says_becomes_part_of_the_page() -> None:
    survey = surveys.survey(EVIL, [surveys.instance(EVIL, 64 * GIB, 10)])
    made = files.contents({EVIL: survey}, [Missing(EVIL, EVIL)])[1]
    assert "alert(1)</script>" not in made["report.html"]
    assert made["report.html"].count("<script") == 1


def test_no_cell_of_the_csv_is_a_formula() -> None:
    survey = surveys.survey("db1", [surveys.instance("=1+1", 64 * GIB, 10)])
    assert ",'=1+1," in files.contents({"db1": survey})[1]["report.csv"]


def test_the_page_asks_the_network_for_nothing() -> None:
    page = files.contents({"db1": DB1})[1]["report.html"]
    assert "://" not in page
    assert "default-src 'none'" in page


# -- the chart


def test_a_bar_shows_the_largest_instances_the_others_and_what_is_in_none() -> None:
    many = [surveys.instance(f"db{size}", size * GIB, 10) for size in (1, 2, 3, 4, 5)]
    (bar,) = chart.bars(fleet({"db1": surveys.survey("db1", many)}))
    assert [(part.rank, part.name) for part in bar.parts] == [
        (0, "db5"),
        (1, "db4"),
        (2, "db3"),
        (3, "2 more"),
        (4, "in no instance"),
    ]
    assert sum(part.size_bytes for part in bar.parts) == bar.size_bytes
    assert sum(part.width_percent for part in bar.parts) == pytest.approx(100)


def test_bars_are_drawn_on_one_scale(two: Fleet) -> None:
    longest, other = chart.bars(two)
    widths = [sum(part.width_percent for part in bar.parts) for bar in (longest, other)]
    assert widths == pytest.approx([100, 100 * other.size_bytes / longest.size_bytes])


# -- many


# How long it takes: benchmarks/report.py.
def test_five_hundred_hosts_are_one_report(tmp_path: Path) -> None:
    for name, survey in surveys.fleet(500).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(survey))
    found, made = files.contents(*files.gathered({}, [str(tmp_path)]))
    files.write(str(tmp_path / "report"), made)
    assert (len(found.hosts), len(found.missing)) == (500, 0)


def test_without_jinja_the_report_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unavailable, match=r"filled in by Jinja.*pip install Jinja2"):
        files.contents({"db1": DB1})
