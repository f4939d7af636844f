# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`mshare list` as a user who may not read a root: never "There are no regions" about it."""

from __future__ import annotations

import sys

import pytest

from mshare.units import MIB
from rig.other_user import needs_root
from rig.world import AS_NOBODY, NOBODY, World

AS_USER = [sys.executable, "-c", AS_NOBODY]


def made(world: World) -> list[list[str]]:
    """A msharefs of root's, closed to others, with a region."""
    closed = str(world.directory / "closed")
    mount = ["mshare", "mount", "--backend", "simulated", "--root", closed, "--mode", "0700"]
    create = ["mshare", "create", "sga", "--root", closed, "--size", str(MIB), "--mode", "0600"]
    return [mount, create]


@needs_root
@pytest.mark.parametrize("own", [False, True])
def test_it_is_named(here: World, own: bool) -> None:
    # The one that everybody may read has a region of its own, or none.
    more = [["mshare", "create", "public", "--root", str(here.root), "--size", str(MIB)]] if own else []
    here.environment.pop("MSHARE_ROOT")
    remove = [["mshare", "rm", "sga", "--root", str(here.directory / "closed")]]
    commands = [*made(here), *more, [*AS_USER, "list"], *remove]
    listed = here.run_in_mount_namespace(*commands)[-2]
    assert listed.returncode == 0, listed.stderr
    shown = f"There may be more regions at {here.directory}/closed, which uid {NOBODY} may not read."
    assert shown in " ".join(listed.stdout.split())
    assert "There are no regions" not in listed.stdout
