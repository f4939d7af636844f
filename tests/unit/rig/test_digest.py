# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What failed stands together at the end, where a long log is cut last."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import digest


def report(name: str, said: str) -> pytest.TestReport:
    return pytest.TestReport(
        f"tests/test_x.py::{name}", ("tests/test_x.py", 1, name), {}, "failed", said, "call"
    )


def test_failures_and_the_last_lines_of_each(tmp_path: Path) -> None:
    long = "\n".join(f"line {number}" for number in range(40))
    stats = {"failed": [report("test_a", long), report("test_b", "E  luck")], "passed": []}
    digest.append(str(tmp_path / "digest"), stats)
    digest.append(str(tmp_path / "digest"), {"error": [report("test_c", "E  set-up")]})
    lines = (tmp_path / "digest").read_text().splitlines()
    assert [line for line in lines if not line.startswith("    ")] == [
        "FAILED tests/test_x.py::test_a",
        "FAILED tests/test_x.py::test_b",
        "ERROR tests/test_x.py::test_c",
    ]
    assert lines[1:26] == [f"    line {number}" for number in range(15, 40)]
    assert lines[27] == "    E  luck"


def test_nothing_for_what_passed(tmp_path: Path) -> None:
    digest.append(str(tmp_path / "digest"), {"passed": [report("test_a", "")]})
    assert not (tmp_path / "digest").read_text()
