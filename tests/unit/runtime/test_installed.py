# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was installed on a host works there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mshare import paths
from mshare.runtime import install
from mshare.runtime.manifest import Place
from mshare.services.detached import Detached


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    """A place of the test's own, on a host without systemd."""
    monkeypatch.setattr(install, "current", Detached)
    monkeypatch.setenv("MSHARE_CACHE_DIR", str(tmp_path / "cache"))
    return Place(str(tmp_path / "library"), str(tmp_path / "bin" / "mshare"), sys.executable)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """The library of this clone: path below the package -> text."""
    top = Path(paths.PACKAGE)
    wanted = [*top.rglob("*.py"), *top.rglob("*.[ch]")]
    return {str(path.relative_to(top)): path.read_text(encoding="utf-8") for path in wanted}


def test_the_installed_command_takes_the_preload_that_was_built_for_it(place, sources, tmp_path):
    install.present(place, sources, preload=True)
    done = subprocess.run(
        [place.executable, "run", "--pages", "thp", "--", "cat", "/proc/self/environ"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"LD_PRELOAD={place.preload}" in done.stdout.split("\0")
    assert not os.path.exists(tmp_path / "cache"), "nothing is built a second time"
