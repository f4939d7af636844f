# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Suites that are tests of `make test` as well, run with more tries."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from checks.layout import ROOT
from prove.tally import Row

FILES = {
    "garbled files": ("tests/unit/test_garbled_files.py",),
    "attacks": (
        "tests/unit/test_files.py",
        "tests/unit/backends/simulated/test_hostile.py",
        "tests/unit/services/test_status_file.py",
        "tests/unit/survey/test_databases.py",
        "tests/unit/survey/test_foreign_names.py",
        "tests/unit/postgresql/test_managers.py",
        "tests/integration/test_preload_hostile.py",
    ),
    "preload": ("tests/integration/test_preload_matrix.py", "tests/integration/test_preload_limits.py"),
    "launcher": ("tests/unit/services/test_cgroup.py",),
}
TRIES = "tries"
"""The property in which a test says how many tries it makes; without it, it is one."""


def run(suite: str) -> Iterator[Row]:
    """A row for each file of a suite."""
    for file in FILES[suite]:
        row = Row(suite, f"`{file}`")
        with tempfile.TemporaryDirectory(prefix="mshare-prove-") as directory:
            report = Path(directory) / "report.xml"
            options = ("-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1")
            subprocess.run(
                [sys.executable, "-m", "pytest", *options, f"--junit-xml={report}", file],
                cwd=ROOT,
                env={**os.environ, "MSHARE_PROVE": "1"},
                stdout=sys.stderr,
                check=False,
            )
            for case in ElementTree.parse(report).iter("testcase"):
                _count(row, case)
        yield row


def _count(row: Row, case: ElementTree.Element) -> None:
    if case.find("skipped") is not None:
        return
    tries = next((p.get("value") for p in case.iter("property") if p.get("name") == TRIES), "1")
    row.injected += int(tries or 1)
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            row.failed += 1
            row.differs.append(f"{case.get('name')}: {(found.get('message') or '').splitlines()[0][:300]}")
