# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/proof.md is what `make prove` recorded, all of it, and whatever differs is told in a sentence."""

from __future__ import annotations

import re

from checks.layout import ROOT
from prove import tally


def test_the_page_is_made_from_the_record() -> None:
    assert tally.PAGE.read_text() == tally.page(tally.read()), "run `make docs`"


def test_every_suite_was_run() -> None:
    assert set(tally.read()) == set(tally.SUITES)


def test_whatever_differs_is_told() -> None:
    rows = [row for run in tally.read().values() for row in run.rows]
    assert [row.what for row in rows if bool(row.failed) != bool(row.differs)] == []


def test_something_was_tried_everywhere() -> None:
    assert [row.what for run in tally.read().values() for row in run.rows if row.injected <= 0] == []


def test_each_defence_in_security_is_shown_by_files_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = text.split("|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) > 8
    for row in rows:
        linked = re.findall(r"\]\(([^)]+)\)", row.rsplit("|", 2)[1])
        assert linked, row
        assert [path for path in linked if not (ROOT / path).is_file()] == []
