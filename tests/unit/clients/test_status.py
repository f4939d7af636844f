# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a launcher writes down, also where its tmpfs is full."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from mshare.clients import status
from mshare.services import status_file


@pytest.fixture
def written(here):
    first = status.starting("sga", str(here.root), {"count": 3}, 3, 4096)
    status_file.make_directory(str(here.root))
    return status_file.file(str(here.root), "sga", status.CLIENTS), first


def test_a_launcher_that_has_started_nothing_yet(here, written):
    path, first = written
    status.StatusFile(path).store(first, required=True)
    found = status_file.read(str(here.root), "sga", status.CLIENTS)
    assert found == first
    assert (found.pid, found.alive, found.state) == (os.getpid(), True, "starting")
    assert (found.requested, found.attached, found.pids) == (3, 0, ())
    assert os.stat(path).st_mode & 0o777 == 0o640, "its clients' command may hold passwords"


def test_a_full_tmpfs_is_told_once_and_written_later(here, written, monkeypatch, capsys):
    path, first = written
    file = status.StatusFile(path)

    def full(*__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with monkeypatch.context() as patched:
        patched.setattr(status_file, "write", full)
        with pytest.raises(OSError, match="No space left"):
            file.store(first, required=True)
        for __ in range(2):
            file.store(first, required=False)
            assert not file.current
    assert capsys.readouterr().err.count(f"{path} is not up to date: ") == 1
    later = replace(first, attached=3)
    file.store(later, required=False)
    assert file.current
    assert status_file.read(str(here.root), "sga", status.CLIENTS) == later


def test_another_error_is_one(written, monkeypatch):
    path, first = written

    def refused(*__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(status_file, "write", refused)
    with pytest.raises(PermissionError):
        status.StatusFile(path).store(first, required=False)
