# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare report: from stored surveys to a folder, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mshare.cli.report import report_command
from mshare.cli.screen import Screen
from mshare.errors import InvalidRequest, Unavailable
from mshare.units import GIB
from rig import surveys


def run(*words: str, as_json: bool = False) -> Result:
    return CliRunner().invoke(report_command, words, obj=Screen(as_json), catch_exceptions=False)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    folder = tmp_path / "surveys"
    folder.mkdir()
    for name in ("db1", "db2"):
        survey = surveys.survey(name, [surveys.instance("main", 64 * GIB, 100)])
        (folder / f"{name}.json").write_text(json.dumps(survey))
    return folder


def test_a_folder_of_surveys_becomes_a_report(stored: Path, tmp_path: Path) -> None:
    to = tmp_path / "report"
    output = run(str(stored), "--folder", str(to)).output
    assert output.startswith("Both hosts survive their own maxima.\n2 hosts surveyed, 0 missing\n")
    assert output.endswith(f"The report is {to}/report.html\n")
    assert sorted(path.name for path in to.iterdir()) == ["report.csv", "report.html", "report.json"]


def test_the_answer_in_json_is_the_modules(stored: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "report")
    first = json.loads(run(str(stored), "--folder", to, as_json=True).output)
    assert (first["changed"], first["totals"]["hosts"], first["verdict"]["state"]) == (True, 2, "fine")
    assert first["compared"] is None
    again = run(str(stored), "--folder", to, "--compare", f"{to}/report.json", as_json=True)
    compared = json.loads(again.output)["compared"]
    assert compared["grown_bytes"] == 0
    assert [change["host"] for change in compared["hosts"]] == ["db1", "db2"]


def test_check_writes_nothing(stored: Path, tmp_path: Path) -> None:
    to = tmp_path / "report"
    lines = run(str(stored), "--folder", str(to), "--check").output.splitlines()
    assert lines == [f"Would write {to}/{name}." for name in ("report.html", "report.json", "report.csv")]
    assert not to.exists()


@pytest.mark.parametrize("words", [("nowhere",), ("{stored}", "--compare", "nowhere")])
def test_a_path_that_is_not_there_is_refused(stored: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere is not there; name files of `mshare survey --json`"):
        run(*(word.format(stored=stored) for word in words), "--folder", str(tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_a_managed_hosts_library_says_where_reports_are_made(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mshare.report", None)
    with pytest.raises(Unavailable, match=r"makes no reports; make the report where the surveys are"):
        run(str(stored))
