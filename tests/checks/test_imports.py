# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An import that runs upwards, or a circle, makes the gate fail: shown on a copy of the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checks.layout import ROOT


def lint(copy: Path) -> subprocess.CompletedProcess[str]:
    """What the gate's stage `imports` says to a copy."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": "lib"}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_library_as_it_is(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "sentence"),
    [
        ("host/procfs.py", "from ..cli import display", "mshare.host is not allowed to import mshare.cli"),
        ("units.py", "from .region import rules", "mshare.units is not allowed to import mshare.region"),
        (
            "kernel/abi.py",
            "from ..backends import base",
            "mshare.kernel is not allowed to import mshare.backends",
        ),
    ],
)
def test_an_import_that_runs_upwards(copy: Path, file: str, line: str, sentence: str) -> None:
    with (copy / "lib" / "mshare" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode != 0
    assert sentence in " ".join(done.stdout.split())


def test_a_folder_that_no_layer_names(copy: Path) -> None:
    (copy / "lib" / "mshare" / "attic").mkdir()
    (copy / "lib" / "mshare" / "attic" / "__init__.py").write_text("")
    done = lint(copy)
    assert done.returncode != 0
    assert "attic" in done.stdout
