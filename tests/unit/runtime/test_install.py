# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installed files: for all users whatever the umask, and kept while a process uses them."""

from __future__ import annotations

import json
import mmap
import os
import stat
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.preload import library
from mshare.runtime import install
from mshare.runtime.manifest import Place, check_command

SOURCES = {"__init__.py": "", "cli/__init__.py": "def main(): ...\n"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"MSHARE_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setattr(install, "current", lambda: type("Detached", (), {"survives_reboot": False}))
    tmp_path.chmod(0o755)
    return Place(str(tmp_path / "lib/mshare"), str(tmp_path / "bin/mshare"), "/usr/bin/python3")


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(place):
    found = {place.directory: 0}
    for folder, folders, names in os.walk(place.directory):
        found.update((os.path.join(folder, name), 0) for name in [*folders, *names])
    return {path: stat.S_IMODE(os.stat(path).st_mode) for path in [*found, place.executable]}


def put(place):
    return install.present(place, SOURCES, runs=False)


def test_what_is_installed_is_for_all_users_whatever_the_umask(place, umask):
    assert put(place).changed
    for path, mode in modes(place).items():
        assert mode == (0o755 if os.path.isdir(path) or path == place.executable else 0o644), path
    assert not put(place).changed
    assert os.umask(umask) == umask


def test_a_mode_that_is_wrong_is_put_right(place):
    put(place)
    os.chmod(place.directory, 0o700)
    os.chmod(place.executable, 0o700)
    outcome = install.present(place, SOURCES, runs=False, check=True)
    assert outcome.actions == [f"let all users read {place.executable}, {place.directory}"]
    assert put(place).changed
    assert not put(place).changed
    assert set(modes(place).values()) == {0o755, 0o644}


def test_the_action_plugin_s_look_sees_modes_as_well(place):
    put(place)
    command = check_command(place, SOURCES).split("|| exit 1; ", maxsplit=1)[0]
    assert os.system(command) == 0
    os.chmod(place.directory, 0o700)
    assert os.system(command) != 0


def test_a_library_that_is_mapped_stays(place):
    put(place)
    with open(place.preload, "wb") as file:
        file.write(b"x" * 4096)
    listed = json.loads(Path(place.manifest).read_text())
    listed["files"].append(place.preload)
    Path(place.manifest).write_text(json.dumps(listed))
    with open(place.preload, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert library.users([place.preload]) == [os.getpid()]
        for check in (True, False):
            with pytest.raises(
                Conflict, match=rf"libmshare-preload.so is mapped by 1 running process: {os.getpid()} \("
            ):
                install.absent(place, check=check)
        assert os.path.exists(place.preload)
        # Replaced by a newer one, it is still the one that the process has.
        os.unlink(place.preload)
        assert library.users([place.preload]) == [os.getpid()]
    assert install.absent(place).changed
    assert not os.path.exists(place.directory)


@pytest.mark.parametrize("left", ["manifest", "lock", "directory"])
def test_what_a_removal_or_installation_that_was_cut_off_left_is_removed(place, left):
    state = Path(os.environ["MSHARE_STATE_DIR"])
    unfinished = Path(place.manifest).with_name(f".{Path(place.manifest).name}.0123456789abcdef.new")
    whole = {"manifest": unfinished, "lock": state / "converge.lock", "directory": state / "x"}[left]
    whole.parent.mkdir(parents=True)
    if left != "directory":
        whole.touch()
    assert not install.absent(place, check=True).changed or left == "manifest"
    assert whole.parent.exists()
    install.absent(place)
    assert not whole.parent.exists()


def test_a_state_directory_in_use_stays(place):
    used = Path(os.environ["MSHARE_STATE_DIR"]) / "run-msharefs" / "sga.owner.json"
    used.parent.mkdir(parents=True)
    used.touch()
    assert not install.absent(place).changed
    assert used.exists()
