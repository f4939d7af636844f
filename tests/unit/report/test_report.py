# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's report: its figures, its three files, and what strangers' texts must not do to it."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mshare import __version__
from mshare.errors import InvalidRequest, Unavailable
from mshare.pagetable import page_tables
from mshare.plan.facts import from_survey
from mshare.plan.plan import plan
from mshare.report import chart, files, table
from mshare.report.fleet import Fleet, Missing, Verdict, fleet
from mshare.report.remedies import HUGE, MSHARE, REMEDIES
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB, format_size
from rig import surveys

DB1 = surveys.survey("db1", [surveys.instance("main", 64 * GIB, 100, maximum=300)])
DB2 = surveys.survey("db2", [surveys.instance("big", 300 * GIB, 200), surveys.instance("web", 0, 10)])
UNREACHABLE = {"unreachable": True, "msg": "ssh: connect to host db3 port 22:\nNo route to host"}


@pytest.fixture
def two() -> Fleet:
    return fleet({"db1": DB1, "db2": DB2})


def contents(surveyed: dict[str, Any]) -> dict[str, str]:
    """The report's files on surveys."""
    return files.report(files.Gathered(surveyed, ())).contents


def sum_of(survey: dict[str, Any]) -> int:
    return sum(one["page_tables"]["sum_bytes"] for one in survey["instances"])


# -- figures


def test_what_processes_share_of_huge_pages_counts_once() -> None:
    """VmPTE has 8 GiB of PMD tables that are 4 MiB of memory: no bar is longer than its host's."""
    one = surveys.in_huge_pages("ORCL", 1024 * GIB, 2000, maximum=5000, kind="oracle")
    found = surveys.survey("ora1", [one])
    found["host"].update(page_tables_bytes=600 * MIB, memory_total_bytes=1536 * GIB)
    report = fleet({"ora1": found})
    (host,) = report.hosts
    (shown,) = host.instances
    assert 500 * MIB < shown.page_tables_bytes < 600 * MIB
    assert shown.page_tables_average_bytes == shown.page_tables_bytes // 2000
    assert (shown.page_tables_segments_bytes or 0) < 100 * MIB
    assert (shown.page_tables_kind, shown.figure_kind) == ("modelled", "modelled")
    assert shown.at_maximum_kind == "projected"
    assert report.totals.page_tables_of_instances.kind == "modelled"
    assert (host.state, host.outlook.today_bytes) == ("fine", shown.page_tables_bytes)
    (drawn,) = chart.bars(report)
    assert sum(part.size_bytes for part in drawn.parts) <= drawn.size_bytes
    json.loads(contents({"ora1": found})["report.json"])


def test_hosts_and_instances_come_with_most_of_their_ram_first(two: Fleet) -> None:
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
    assert "  one, two run on one kernel: counted once in the totals" in found.summary_lines()
    assert found.totals.kernels == 2
    assert "one, two run on one kernel" in contents({"one": one, "two": two})["report.html"]


def test_hosts_whose_survey_does_not_name_its_kernel_are_counted_each() -> None:
    one, two = (surveys.survey(name, []) for name in ("one", "two"))
    one["host"]["boot_id"] = two["host"]["boot_id"] = None
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


def test_a_saving_says_how_much_of_it_is_open() -> None:
    """A sum over hosts that cannot have it as well is no promise."""
    without = surveys.survey("without", [surveys.instance("main", 64 * GIB, 200)])
    without["host"].update(huge_page_pools=[], huge_page_default_bytes=None)
    made = fleet(
        {"with": surveys.survey("with", [surveys.instance("main", 8 * GIB, 100)]), "without": without}
    )
    text = " ".join(" ".join(made.summary_lines()).split())
    (open_bytes,) = (
        one.saving("hugetlb_2m").maximum.saved_bytes for one in made.instances if one.host == "with"
    )
    assert f"{format_size(open_bytes)} of that where it is open, in 1 of 2 instances" in text
    assert "and is open to none of 2 instances" in text


def test_a_fleet_of_nobody() -> None:
    made = files.report(files.Gathered({}, (Missing("db1", "unreachable"),)))
    assert (made.fleet.page_tables_bytes, made.fleet.mshare.now.saved_bytes) == (0, 0)
    assert made.fleet.verdict == "No host was surveyed."
    assert 'id="chart"' not in made.contents["report.html"]


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
    assert files.from_results({"db3": result}) == files.Gathered({}, (Missing("db3", reason),))


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
    made = [files.report(files.Gathered({"db1": DB1}, ())) for __ in range(2)]
    assert made[0].contents == made[1].contents
    folder = str(tmp_path / "new" / "folder")
    assert made[0].changed(folder) == ["report.html", "report.json", "report.csv"]
    made[0].write(folder)
    assert made[1].changed(folder) == []


def test_a_report_is_made_again_from_what_it_stored(tmp_path: Path) -> None:
    made = files.report(files.from_results({"db1": {"survey": DB1}, "db3": UNREACHABLE}))
    made.write(str(tmp_path))
    again = files.report(files.gathered({}, [str(tmp_path / "report.json")]))
    assert again.contents == made.contents


def test_stored_surveys_are_named_after_their_hosts(tmp_path: Path) -> None:
    (tmp_path / "db1.json").write_text(json.dumps(DB1))
    (tmp_path / "db4.json").write_text("{")
    found = files.from_files([str(tmp_path)])
    assert found.surveys == {"db1": DB1}
    assert [one.host for one in found.missing] == ["db4"]


def test_what_a_host_answers_in_this_run_counts_more_than_what_is_stored(tmp_path: Path) -> None:
    (tmp_path / "db1.json").write_text(json.dumps(DB1))
    (tmp_path / "db2.json").write_text(json.dumps(DB2))
    found = files.gathered({"db1": UNREACHABLE}, [str(tmp_path)])
    assert list(found.surveys) == ["db2"]
    assert [one.host for one in found.missing] == ["db1"]


def stored(folder: Path, name: str, survey: dict[str, Any], **fields: Any) -> str:
    """A file of `mshare survey --json`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({**survey, **fields}))
    return str(path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_two_surveys_of_a_host_the_later_counts(tmp_path: Path, order: tuple[int, ...]) -> None:
    """In whatever order files and earlier reports are named."""
    first = {**DB1, "created_at": "2026-11-01T06:00:00+00:00"}
    files.report(files.Gathered({"db1": first}, ())).write(str(tmp_path))
    last_time = "2026-11-27T09:00:00+00:00"
    paths = [
        str(tmp_path / "report.json"),
        stored(tmp_path / "monday", "db1.json", DB1),
        stored(tmp_path / "tuesday", "db1.json", DB1, created_at=last_time),
    ]
    found = files.from_files([paths[number] for number in order])
    assert found.surveys == {"db1": {**DB1, "created_at": last_time}}


def test_two_hosts_of_one_name_are_no_single_host(tmp_path: Path) -> None:
    """One of them would not be in the report, and nobody would know."""
    paths = [stored(tmp_path / "eu", "db1.json", DB1), stored(tmp_path / "us", "db1.json", DB2)]
    with pytest.raises(InvalidRequest, match=r"have the same name and are of two hosts") as raised:
        files.from_files(paths)
    assert all(path in str(raised.value) for path in paths)
    # Nor is anything of it understood before it is known to be a survey.
    odd = [stored(tmp_path / "odd", "db1.json", {"host": 7, "created_at": 7}), paths[0]]
    assert files.from_files(odd).surveys == {"db1": DB1}


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_a_number_that_is_none_makes_its_host_missing_with_a_sentence(tmp_path: Path, number: str) -> None:
    text = json.dumps(DB1).replace('"duration_ms": 40', f'"duration_ms": {number}')
    assert number in text
    (tmp_path / "db1.json").write_text(text)
    made = files.report(files.from_files([str(tmp_path)]))
    assert [one.host for one in made.fleet.missing] == ["db1"]
    assert str(tmp_path / "db1.json") in made.fleet.missing[0].reason
    json.loads(made.contents["report.json"], parse_constant=pytest.fail)


def test_a_number_that_is_none_does_not_come_from_a_module_either() -> None:
    endless = copy.deepcopy(DB1)
    endless["method"]["duration_ms"] = float("inf")
    made = files.report(files.from_results({"db1": {"survey": endless}}))
    assert "duration_ms" in made.fleet.missing[0].reason
    json.loads(made.contents["report.json"], parse_constant=pytest.fail)


def test_the_files_say_when_the_surveys_were_made_and_by_which_version(two: Fleet) -> None:
    document = json.loads(contents({"db1": DB1})["report.json"])
    assert document["version"] == __version__
    assert document["surveyed"] == {"first": DB1["created_at"], "last": DB1["created_at"]}
    assert f"report by mshare {__version__}" in contents({"db1": DB1})["report.html"]


def test_every_instance_and_every_missing_host_has_a_line_of_csv(two: Fleet) -> None:
    lost = fleet({"db1": DB1, "db2": DB2}, [Missing("db3", "unreachable")])
    rows = list(csv.DictReader(io.StringIO(table.table(lost))))
    assert [(row["host"], row["status"], row["instance"]) for row in rows] == [
        ("db2", "complete", "big"),
        ("db2", "complete", "web"),
        ("db1", "complete", "main"),
        ("db3", "missing", ""),
    ]
    assert rows[3]["remarks"] == "unreachable"


def test_the_heads_of_the_csv_are_plain_words() -> None:
    assert [head for head in table.COLUMNS if not re.fullmatch(r"[a-z][a-z0-9_]*", head)] == []
    assert len(set(table.COLUMNS)) == len(table.COLUMNS)


# -- verdict and order


def host(name: str, maximum: int, **fields: Any) -> dict[str, Any]:
    """100 processes with 128 MiB of page tables each, and 128 GiB available."""
    return surveys.survey(name, [surveys.instance("main", 64 * GIB, 100, maximum=maximum)], **fields)


def test_a_host_that_does_not_survive_its_own_maximum_is_the_verdict() -> None:
    found = fleet({"a": host("a", 200), "b": host("b", 700), "c": host("c", 5000)})
    assert {one.name: one.state for one in found.hosts} == {
        "a": "fine",
        "b": "at risk",
        "c": "out of memory",
    }
    assert found.state == "out of memory"
    assert found.verdict == "1 host of 3 does not survive its own maximum: c."
    lines = found.summary_lines()
    assert lines[0] == found.verdict
    assert lines[1].startswith("  c runs out of memory before its maximum of processes: page tables would")
    assert found.judged == Verdict("out of memory", found.verdict)


def test_a_limit_of_a_cgroup_counts_as_in_the_plan() -> None:
    """100 processes of 128 MiB grow to 200, and 512 GiB of RAM do not help."""
    limit = {"resource": "memory", "file": "/sys/fs/cgroup/db/memory.max", "limit_bytes": 80 * GIB}
    limited = surveys.survey("a", [surveys.instance("main", 64 * GIB, 100, maximum=200, limits=[limit])])
    (found,) = fleet({"a": limited}).hosts
    planned = plan(from_survey(from_fields(limited)))
    assert (found.state, planned.outlook.verdict) == ("out of memory", "will_run_out")
    assert found.outlook == planned.outlook
    assert found.sentence.endswith("left by /sys/fs/cgroup/db/memory.max")


@pytest.mark.parametrize(
    ("maxima", "verdict"),
    [
        ([200], "The host survives its own maximum."),
        ([200, 300], "Both hosts survive their own maxima."),
        ([700], "1 host of 1 is at risk at its own maximum: db0."),
        ([700, 800], "2 hosts of 2 are at risk at their own maxima: db1, db0."),
        (
            [5000] * 12,
            "12 hosts of 12 do not survive their own maxima:"
            " db0, db1, db10, db11, db2, db3, db4, db5, db6, db7 and 2 more.",
        ),
    ],
)
def test_the_verdict_has_the_right_numbers(maxima: list[int], verdict: str) -> None:
    found = fleet({f"db{number}": host(f"db{number}", maximum) for number, maximum in enumerate(maxima)})
    if maxima == [700, 800]:
        verdict = verdict.replace("db1, db0", "db0, db1")
    assert found.verdict == verdict


def test_hosts_are_ranked_by_what_page_tables_take_of_their_ram() -> None:
    small, large = host("small", 100), host("large", 200)
    large["host"]["page_tables_bytes"] *= 2
    large["host"]["memory_total_bytes"] *= 4
    assert [one.name for one in fleet({"large": large, "small": small}).hosts] == ["small", "large"]


def test_what_can_be_acted_on_comes_before_what_cannot(two: Fleet) -> None:
    usable = [saving.usable > 0 for saving in two.savings]
    assert usable == sorted(usable, reverse=True)
    assert two.savings[-1].remedy == MSHARE
    assert [one.name for one in two.instances] == ["big", "main", "web"]
    assert [one.usable for one in two.instances] == [True, True, False]


# -- compared with an earlier report


def earlier_report(folder: Path, surveyed: dict[str, Any]) -> str:
    files.report(files.Gathered(surveyed, ())).write(str(folder))
    return str(folder / "report.json")


def test_what_grew_since_an_earlier_report(tmp_path: Path) -> None:
    before = {
        "db1": surveys.survey("db1", [surveys.instance("old", GIB, 10), surveys.instance("main", GIB, 10)])
    }
    before["db1"]["created_at"] = "2026-11-01T06:00:00+00:00"
    now = {"db1": surveys.survey("db1", [surveys.instance("main", GIB, 30), surveys.instance("new", GIB, 5)])}
    made = files.report(files.Gathered({**now, "db2": DB2}, ()), earlier_report(tmp_path, before))
    compared = made.fleet.compared
    assert compared is not None
    assert compared.since == "2026-11-01T06:00:00+00:00"
    each = page_tables(GIB).total_bytes + surveys.PROCESS_BYTES
    assert [(one.instance, one.grown_bytes) for one in compared.instances] == [
        ("main", 20 * each),
        ("new", 5 * each),
        ("old", -10 * each),
    ]
    (change,) = compared.hosts
    assert (change.host, change.grown_bytes) == ("db1", compared.grown_bytes)
    text = " ".join(" ".join(made.fleet.summary_lines()).split())
    assert "Since 2026-11-01T06:00:00+00:00 page tables grew by" in text
    assert "on 1 host of both reports" in text
    assert 'id="grown-instance"' in made.contents["report.html"]
    assert json.loads(made.contents["report.json"])["compared"]["grown_bytes"] == compared.grown_bytes


def test_hosts_that_are_gone_are_named(tmp_path: Path) -> None:
    """Decommissioned, or not reached today: what they had is in no figure of the comparison."""
    before = {"db1": DB1, "db2": DB2, "db0": surveys.survey("db0", [])}
    unreachable = (Missing("db2", "unreachable"),)
    made = files.report(files.Gathered({"db1": DB1}, unreachable), earlier_report(tmp_path, before))
    compared = made.fleet.compared
    assert compared is not None
    assert (compared.gone, compared.grown_bytes) == (("db0", "db2"), 0)
    text = " ".join(" ".join(made.fleet.summary_lines()).split())
    assert "report.json only: db0, db2" in text
    page = made.contents["report.html"].replace("<wbr>", "")
    assert "In the earlier report only: db0, db2." in page
    assert json.loads(made.contents["report.json"])["compared"]["gone"] == ["db0", "db2"]


def test_two_reports_without_a_common_host(tmp_path: Path) -> None:
    made = files.report(files.Gathered({"db2": DB2}, ()), earlier_report(tmp_path, {"db1": DB1}))
    assert "No host of this report is in" in " ".join(made.fleet.summary_lines())


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("{", "is not valid JSON"),
        ("[]", "an object"),
        ("{}", "has no field surveys"),
        ('{"surveys": {"db1": {"schema_version": 1}}, "missing": []}', "not a survey of this release"),
    ],
)
def test_what_is_no_report_cannot_be_compared_with(tmp_path: Path, text: str, needed: str) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InvalidRequest, match=r"there is nothing to compare with.*") as raised:
        files.report(files.Gathered({"db1": DB1}, ()), str(tmp_path / "old.json"))
    assert needed in str(raised.value)
    assert str(tmp_path / "old.json") in str(raised.value)


# -- texts of strangers


EVIL = '<script>alert(1)</script>"&'


def test_nothing_a_host_says_becomes_part_of_the_page() -> None:
    survey = surveys.survey(EVIL, [surveys.instance(EVIL, 64 * GIB, 10)])
    made = files.report(files.Gathered({EVIL: survey}, (Missing(EVIL, EVIL),))).contents
    assert "alert(1)</script>" not in made["report.html"]
    assert made["report.html"].count("<script") == 1


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    name = b"postgres\xff\xfe".decode(errors="surrogateescape")
    made = files.report(files.Gathered({"db1": surveys.survey("db1", [surveys.instance(name, GIB, 10)])}, ()))
    made.write(str(tmp_path))
    assert made.changed(str(tmp_path)) == []
    for file in ("report.html", "report.csv"):
        assert "postgres\\xff\\xfe" in (tmp_path / file).read_text(encoding="utf-8")
    again = files.report(files.gathered({}, [str(tmp_path / "report.json")]))
    assert again.contents == made.contents


def test_no_cell_of_the_csv_is_a_formula() -> None:
    survey = surveys.survey("db1", [surveys.instance("=1+1", 64 * GIB, 10)])
    assert ",'=1+1," in contents({"db1": survey})["report.csv"]


def test_the_page_asks_the_network_for_nothing() -> None:
    page = contents({"db1": DB1})["report.html"]
    assert "://" not in page
    assert "default-src 'none'" in page


# -- the chart


def test_a_bar_shows_the_largest_instances_the_others_and_what_is_in_none() -> None:
    many = [surveys.instance(f"db{size}", size * GIB, 10) for size in (1, 2, 3, 4, 5)]
    (only,) = chart.bars(fleet({"db1": surveys.survey("db1", many)}))
    assert [(part.rank, part.name) for part in only.parts] == [
        (0, "db5"),
        (1, "db4"),
        (2, "db3"),
        (3, "2 more"),
        (4, "in no instance"),
    ]
    assert sum(part.size_bytes for part in only.parts) == only.size_bytes
    assert sum(part.width_percent for part in only.parts) == pytest.approx(100)


def test_bars_are_drawn_on_one_scale(two: Fleet) -> None:
    longest, other = chart.bars(two)
    widths = [sum(part.width_percent for part in drawn.parts) for drawn in (longest, other)]
    assert widths == pytest.approx([100, 100 * other.size_bytes / longest.size_bytes])


# -- many


# How long it takes: benchmarks/report.py.
def test_five_hundred_hosts_are_one_report(tmp_path: Path) -> None:
    for name, survey in surveys.fleet(500).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(survey))
    made = files.report(files.gathered({}, [str(tmp_path)]))
    made.write(str(tmp_path / "report"))
    assert (len(made.fleet.hosts), len(made.fleet.missing)) == (500, 0)


def test_without_jinja_the_report_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unavailable, match=r"filled in by Jinja.*pip install Jinja2"):
        contents({"db1": DB1})
