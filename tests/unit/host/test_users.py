# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who keeps a file system from being unmounted."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from mshare.host import users

HOLD = {
    "an open file": "file = open(path)",
    "a working directory": "os.chdir(os.path.dirname(path))",
    "a mapping": ("import mmap; fd = os.open(path, os.O_RDWR); memory = mmap.mmap(fd, 4096); os.close(fd)"),
}


@pytest.fixture
def file():
    """On a tmpfs, which is another file system than the one that programs come from."""
    path = f"/dev/shm/mshare-test-users-{os.getpid()}"
    with open(path, "wb") as file:
        file.truncate(mmap.PAGESIZE)
    yield path
    os.unlink(path)


@pytest.mark.parametrize("how", HOLD)
def test_each_way_to_use_it(file, how):
    script = f"import os, sys; path = sys.argv[1]; {HOLD[how]}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, file],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = users.of_filesystem(file)
        process.communicate()
    assert process.pid in found
    assert found == sorted(found)
    assert process.pid not in users.of_filesystem(file)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        users.of_filesystem(str(tmp_path / "missing"))
