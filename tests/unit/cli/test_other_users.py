# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user is told who may not look: that it is not known, never that it is absent or dead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from rig.world import World, new_world

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture
def world() -> Iterator[World]:
    """A region of root's, and another user, who has directories of their own."""
    with new_world() as made:
        made.ok("create", "sga", "--size", "64MiB", "--mode", "0660")
        yield made


def closed(world: World) -> None:
    os.chmod(world.root, 0o770)


@pytest.mark.parametrize(
    "command",
    [
        ("list", "--root", "{root}"),
        ("stat", "sga"),
        ("create", "sga", "--size", "64MiB"),
        ("attach", "sga"),
        ("clients", "start", "sga", "--count", "1"),
        ("rm", "sga"),
        ("mount", "--root", "{root}"),
        ("validate", "sga"),
    ],
)
def test_outside_the_group_of_a_root(world: World, command: tuple[str, ...]) -> None:
    closed(world)
    own = {"MSHARE_STATE_DIR": f"/dev/shm/state-{os.getpid()}", "MSHARE_CONFIG_DIR": "/nonexistent"}
    world.environment |= own
    done = world.run_as_nobody(*(word.format(root=world.root) for word in command))
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"uid 65534 may not look into {world.root}, so what is there is not known" in done.stderr
    assert not os.path.exists(own["MSHARE_STATE_DIR"])
    assert not os.path.exists(own["MSHARE_CONFIG_DIR"])


def test_a_region_that_may_not_be_opened_is_unknown_and_not_stale(world: World) -> None:
    """Neither its record nor what its owner wrote down can be read."""
    os.chmod(world.state, 0o700)
    os.chmod(world.root / "sga", 0o600)
    world.environment["MSHARE_STATE_DIR"] = f"/dev/shm/state-{os.getpid()}"
    shown = world.run_as_nobody("list")
    assert shown.returncode == 0
    assert " unknown " in shown.stdout
    assert "sga: uid 65534 may not open" in shown.stdout
    refused = world.run_as_nobody("rm", "sga")
    assert refused.returncode == 4
    assert "whether region sga lives is not known" in refused.stderr


def test_a_state_directory_of_somebody_else(world: World) -> None:
    done = world.run_as_nobody("create", "other", "--size", "64MiB")
    assert done.returncode == 4
    assert f"uid 65534 may not write in {world.state}" in done.stderr
    assert "set MSHARE_STATE_DIR" in done.stderr


@pytest.mark.parametrize(
    "command", [("list",), ("create", "x", "--size", "64MiB"), ("stat", "sga"), ("rm", "sga")]
)
def test_the_runtime_directory_of_another_user(world: World, tmp_path, command: tuple[str, ...]) -> None:
    """As su and sudo leave it."""
    del world.environment["MSHARE_STATE_DIR"]
    world.environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    world.environment["XDG_CONFIG_HOME"] = "/nonexistent"
    done = world.run_as_nobody(*command)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"XDG_RUNTIME_DIR is {tmp_path}, which belongs to another user than uid 65534" in done.stderr
    assert "set it to /run/user/65534" in done.stderr
