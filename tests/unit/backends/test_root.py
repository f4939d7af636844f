# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a root answers about its regions, and what nobody can tell."""

from __future__ import annotations

import errno
import mmap
import os
import signal

import pytest

from mshare.backends import root as roots
from mshare.units import MIB


def test_the_simulator_is_asked_whether_a_region_lives(here):
    with here.owned() as process:
        assert roots.attachable(str(here.root), "sga") is True
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert roots.attachable(str(here.root), "sga") is False
    assert roots.attachable(str(here.root), "other") is None


@pytest.fixture
def region(tmp_path, monkeypatch):
    """A file that a kernel's msharefs might have."""
    path = tmp_path / "sga"
    path.write_bytes(bytes(MIB))
    monkeypatch.setattr(roots, "backend_at", lambda root: "kernel")
    return path


def answering(monkeypatch, error):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(roots.mmap, "mmap", refuse)


def asked(region):
    return roots.attachable(str(region.parent), "sga")


def test_a_window_that_can_be_mapped(region):
    assert asked(region) is True
    assert roots.window_bytes(str(region.parent), "sga") == MIB


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OSError(errno.EINVAL, "dead"), False),
        (OSError(errno.ENODEV, "dead, as FUSE says it"), False),
        (OSError(errno.ENOMEM, "a limit of this process"), None),
        (ValueError("no such length"), None),
    ],
)
def test_a_window_that_cannot(region, monkeypatch, error, answer):
    answering(monkeypatch, error)
    assert asked(region) is answer


def test_nothing_in_the_window_is_touched(region, monkeypatch):
    seen = []
    real = mmap.mmap
    monkeypatch.setattr(roots.mmap, "mmap", lambda fd, size, *how: seen.append(how) or real(fd, size, *how))
    assert asked(region) is True
    assert seen == [(mmap.MAP_SHARED, mmap.PROT_READ)], "no MAP_POPULATE"


def test_what_cannot_be_asked(region, tmp_path):
    region.write_bytes(b"")
    assert asked(region) is None, "it has no size yet"
    region.unlink()
    assert asked(region) is None
    assert roots.window_bytes(str(tmp_path), "sga") is None
