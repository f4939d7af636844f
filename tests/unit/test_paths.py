# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mshare import paths

NAMES = {
    "/": "-",
    "/sys/fs/mshare": "sys-fs-mshare",
    "/run/msharefs/": "run-msharefs",
    "//run//msharefs": "run-msharefs",
    "/a-b/c": r"a\x2db-c",
    "/.hidden/.x": r"\x2ehidden-.x",
    "/with space": r"with\x20space",
    "/ü": r"\xc3\xbc",
    "/back\\slash": r"back\x5cslash",
    "/a:b_c.d": "a:b_c.d",
}


@pytest.mark.parametrize(("path", "name"), NAMES.items())
def test_a_path_as_one_name(path, name):
    assert paths.escape(path) == name


def test_a_path_that_is_not_utf_8():
    assert paths.escape(os.fsdecode(b"/\xff")) == r"\xff"


# What systemd-escape takes: no "..", which it refuses, and nothing that it takes for an option.
absolute = st.lists(
    st.text(
        st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=6
    ).filter(lambda part: part != ".."),
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd-escape is not installed")
@settings(max_examples=10, deadline=None)
@given(st.lists(absolute, min_size=20, max_size=60))
@example(list(NAMES))
def test_names_are_systemds(some):
    command = ["systemd-escape", "--path", "--", *some]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # It separates its answers by spaces, which no answer contains.
    assert [paths.escape(path) for path in some] == said.split()


USER = {"HOME": "/home/u", "XDG_CONFIG_HOME": "", "XDG_RUNTIME_DIR": ""}


@pytest.mark.parametrize(
    ("uid", "environment", "config", "state", "root"),
    [
        (0, {}, "/etc/mshare", "/run/mshare", "/run/msharefs"),
        (1000, USER, "/home/u/.config/mshare", "/tmp/mshare-1000", "/dev/shm/msharefs-1000"),
        (
            1000,
            {**USER, "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1000"},
            "/c/mshare",
            "/run/user/1000/mshare",
            "/dev/shm/msharefs-1000",
        ),
        (0, {"MSHARE_CONFIG_DIR": "/x", "MSHARE_STATE_DIR": "/y"}, "/x", "/y", "/run/msharefs"),
    ],
)
def test_places(monkeypatch, uid, environment, config, state, root):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name in ("MSHARE_CONFIG_DIR", "MSHARE_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (paths.config_dir(), paths.state_dir(), paths.simulated_root()) == (config, state, root)
