# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program mshare-client: when it is run, and what is said where it is not."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from mshare.errors import Unavailable
from mshare.preload import client, library
from mshare.preload.client import Report, Stage
from rig.debian import cache_dir

FITTING = f"#!/bin/sh\necho '{client.LAYOUT}'\n"


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built for a test stays in the tests' own cache, not in this machine's."""
    monkeypatch.setenv("MSHARE_CACHE_DIR", str(cache_dir("built")))


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache of this test has the program: a script that answers as it does."""
    monkeypatch.setenv("MSHARE_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o755)
    version = library.digest(library.own_sources())[:16]
    path = tmp_path / f"mshare-client-{version}"
    path.write_text(FITTING)
    path.chmod(0o755)
    return path


@pytest.mark.usefixtures("cached")
def test_the_program_has_the_structures_that_python_has() -> None:
    done = subprocess.run([client.program(), "--layout"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{client.LAYOUT}\n"


@pytest.mark.usefixtures("cached")
def test_it_is_started_by_a_launcher_only() -> None:
    done = subprocess.run([client.program(), "1"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (64, "mshare-client is started by mshare only\n")


def test_what_is_built_is_run(built: Path) -> None:
    assert client.program() == str(built)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_a_program_that_others_can_change_is_not_run(built: Path, mode: int) -> None:
    built.chmod(mode)
    with pytest.raises(Unavailable, match=rf"others may change {built} \(uid \d+, mode {mode:04o}\)"):
        client.program()


def test_a_program_that_others_can_replace_is_not_run(built: Path) -> None:
    built.parent.chmod(0o777)
    with pytest.raises(Unavailable, match=rf"others may change {built.parent} "):
        client.program()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_program_of_another_user_is_not_run(built: Path) -> None:
    os.chown(built, 65534, 65534)
    with pytest.raises(Unavailable, match=rf"others may change {built} \(uid 65534"):
        client.program()


def test_a_program_that_cannot_be_executed(built: Path) -> None:
    built.chmod(0o644)
    with pytest.raises(Unavailable, match=r"cannot be run \(.*set MSHARE_CACHE_DIR to .* not mounted noexec"):
        client.program()


def test_a_program_of_other_structures(built: Path) -> None:
    built.write_text("#!/bin/sh\necho mshare-client 0 1 2 3 4\n")
    with pytest.raises(Unavailable, match=r"answers 'mshare-client 0 1 2 3 4', not .*; remove it"):
        client.program()


def test_no_program_and_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unavailable, match=r"no C compiler .*mshare_runtime_preload: true"):
        client.program()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("stage", "code", "sentence"),
    [
        (2, 13, r"^/x/sga: Permission denied \(EACCES\); run as the region's owner"),
        (
            3,
            116,
            r"^/x/sga is another file than the region that was to be attached; start the clients again$",
        ),
        (5, 12, r"^/x/sga: Cannot allocate memory \(ENOMEM\); "),
        (6, 13, r"^an object in it cannot be mapped: /x/sga: Permission denied"),
    ],
)
def test_what_failed_is_said(stage: int, code: int, sentence: str) -> None:
    report = Report(1, 0, Stage(stage), code, *[0] * 8)
    assert re.search(sentence, report.failure("/x/sga"))
