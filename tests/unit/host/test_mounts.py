# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading mountinfo."""

from __future__ import annotations

import pytest

from mshare.host import mounts

MOUNTINFO = (
    "22 28 0:21 / /proc rw,nosuid - proc proc rw,hidepid=2\n"
    "30 28 0:30 / /run/a\\040b rw shared:5 master:1 - tmpfs mshare-simulated rw,mode=700\n"
    "31 30 0:31 / /run/a\\040b rw - tmpfs on-top rw\n"
)


def test_what_is_mounted_where():
    found = mounts.parse_mounts(MOUNTINFO)
    assert [(mount.path, mount.filesystem, mount.source) for mount in found] == [
        ("/proc", "proc", "proc"),
        ("/run/a b", "tmpfs", "mshare-simulated"),
        ("/run/a b", "tmpfs", "on-top"),
    ]
    assert found[0].super_options == "rw,hidepid=2"


def test_the_uppermost_counts(monkeypatch):
    monkeypatch.setattr(mounts, "mounts", lambda: mounts.parse_mounts(MOUNTINFO))
    top = mounts.mount_at("/run/a b")
    assert top is not None
    assert top.source == "on-top"
    assert mounts.mount_at("/nowhere") is None


def test_nothing_to_read():
    assert mounts.parse_mounts(None) == ()


def test_this_host_has_proc():
    found = mounts.mount_at("/proc")
    assert found is not None
    assert found.filesystem == "proc"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/run/a b/c/d", "on-top"),
        ("/run/a b", "on-top"),
        ("/run/a bc", None),
        ("/run", None),
        ("/proc/1", "proc"),
        ("/", None),
    ],
)
def test_what_a_path_lies_on(path, source):
    mount = mounts.mount_below(MOUNTINFO, path)
    assert (None if mount is None else mount.source) == source
    whole = mounts.mount_below("1 0 8:1 / / rw - ext4 /dev/root rw\n" + MOUNTINFO, path)
    assert whole is not None
    assert whole.source == (source or "/dev/root")
