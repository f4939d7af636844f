# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks on a controller that has ansible-core and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from integration.hosts import COLLECTIONS


def closure(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """A distribution and all that it needs on this Python, by name."""
    name = canonicalize_name(name)
    if name not in found:
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                closure(requirement.name, found)
    return found


def tops(distributions: Iterator[metadata.Distribution]) -> Iterator[Path]:
    """What the distributions have put into site-packages: folders and files at its top."""
    site = Path(sysconfig.get_path("purelib"))
    for distribution in distributions:
        names = {file.parts[0] for file in distribution.files or []}
        yield from (site / name for name in names - {"..", "__pycache__"})


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a venv with ansible-core as pip installs it."""
    venv = tmp_path_factory.mktemp("controller")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for path in tops(iter(closure("ansible-core", {}).values())):
        (site / path.name).symlink_to(path)
    return venv / "bin" / "python"


def test_the_survey_writes_its_report(controller: Path, tmp_path: Path) -> None:
    asked = "import importlib.util as i; print([n for n in ('click', 'rich', 'mshare') if i.find_spec(n)])"
    there = subprocess.run([str(controller), "-c", asked], capture_output=True, text=True, check=True)
    assert there.stdout == "[]\n"
    words = ["-m", "ansible", "playbook", "dbmem.mshare.survey", "-i", "localhost,", "-c", "local"]
    variables = {"mshare_survey_folder": str(tmp_path / "report"), "mshare_become": False}
    done = subprocess.run(
        [str(controller), *words, "-e", json.dumps(variables)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 host surveyed" in done.stdout
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "report.csv",
        "report.html",
        "report.json",
    ]
