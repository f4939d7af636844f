# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the host, and what is reported of one that fails."""

from __future__ import annotations

import pytest

from mshare.errors import MshareError
from mshare.host import commands


def test_one_that_succeeds(tmp_path):
    commands.run("touch", str(tmp_path / "made"), next_step="make it yourself")
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo wrong; echo more >&2; exit 3", "wrong\nmore"),
        ("exit 3", "exit code 3"),
        ("printf '\\377'; exit 1", "\ufffd"),
    ],
    ids=["its own message", "no message", "no text"],
)
def test_one_that_fails(script, reason):
    with pytest.raises(MshareError) as caught:
        commands.run("sh", "-c", script, next_step="try again")
    assert str(caught.value) == f"`sh -c {script}` failed: {reason}; try again"


def test_it_has_nothing_to_read():
    commands.run("sh", "-c", "! read line", next_step="close its input")
