# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload's C as a compiler and its analysers see it."""

from __future__ import annotations

import graphlib
import subprocess
from pathlib import Path

import pytest

from mshare.preload import library


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each source compiled by itself."""
    directory = tmp_path_factory.mktemp("objects")
    for name, text in library.own_sources().items():
        (directory / name).write_text(text)
    sources = [path.name for path in directory.glob("*.c")]
    subprocess.run([library.compiler(), *library.COMPILE, *sources], cwd=directory, check=True)
    return sorted(directory.glob("*.o"))


def symbols(path: Path, which: str) -> set[str]:
    command = ["nm", "-P", "--extern-only", which, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_no_file_needs_one_that_needs_it(objects: list[Path]) -> None:
    home = {name: path.stem for path in objects for name in symbols(path, "--defined-only")}
    needs = {
        path.stem: {home[name] for name in symbols(path, "--undefined-only") if name in home}
        for path in objects
    }
    assert "take" in needs["mmap"], "the table was read"
    graphlib.TopologicalSorter(needs).prepare()
