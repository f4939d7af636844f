# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What killed and failing commands leave: `umount --force` ends all of it, and nothing of another root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mshare import files
from mshare.backends import root as roots
from mshare.mount import msharefs
from mshare.mount.spec import MountSpec
from rig.world import World

SUCCESSOR = ".{}.0123456789abcdef.new"
SPEC = '{"name": "sga", "size": "64MiB"}'


def paths_of(world: World) -> list[Path]:
    return [path for path in (world.root, world.config, world.state) if path.exists()]


def left_behind(path: Path, text: str = "{") -> Path:
    """The file itself, or the one that a killed process was writing in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def force(world: World, *words: str) -> str:
    return world.ok("umount", "--force", "--root", str(world.root), *words)


@pytest.mark.parametrize(
    "path",
    [
        "etc/mounts/" + SUCCESSOR.format("{root}.json"),
        "etc/regions/" + SUCCESSOR.format("sga.json"),
        "etc/clients/" + SUCCESSOR.format("sga.json"),
        "etc/regions/sga.json",
        "etc/clients/sga.json",
        "run/{root}/" + SUCCESSOR.format("sga.owner.json"),
        "run/{root}/sga.clients.json",
        "run/{root}/sga.owner.log",
        "run/{root}/sga.clients.cgroup",
        "run/{root}/sga.owner.mappings.lock",
        "run/converge.lock",
        "etc/regions/",
    ],
)
@pytest.mark.parametrize("mounted", [True, False])
def test_it_is_removed_with_force(here: World, path: str, mounted: bool) -> None:
    from mshare import paths

    if mounted:
        here.ok("mount", "--backend", "simulated")
    else:
        roots.take_down(str(here.root))
        here.root.rmdir()
    whole = here.directory / path.replace("{root}", paths.escape(str(here.root)))
    if path.endswith("/"):
        whole.mkdir(parents=True)
    else:
        left_behind(whole, f'{{"root": "{here.root}"}}')
    force(here)
    assert paths_of(here) == []


def test_a_check_run_tells_and_removes_nothing(here: World) -> None:
    spec = left_behind(here.config / "regions" / "sga.json", SPEC.replace("}", f', "root": "{here.root}"}}'))
    assert "remove what is left of region sga" in force(here, "--check")
    assert spec.exists()


def test_the_regions_of_another_root_stay(here: World) -> None:
    spec = left_behind(here.config / "regions" / "sga.json", SPEC.replace("}", ', "root": "/run/other"}'))
    force(here)
    assert spec.exists()


def test_rm_ends_a_region_of_which_only_a_half_written_file_is_left(here: World) -> None:
    left_behind(here.config / "regions" / SUCCESSOR.format("sga.json"))
    here.ok("rm", "sga")
    assert list(here.config.glob("**/*")) == []


def test_a_file_that_was_being_written_is_no_region(here: World) -> None:
    left_behind(here.root / SUCCESSOR.format("mshare_info"))
    assert here.json("list")["regions"] == []
    here.ok("umount")
    assert not here.root.exists()


def test_a_mount_that_fails_at_its_last_step_is_undone(here, monkeypatch):
    roots.take_down(str(here.root))
    here.root.rmdir()
    before = sorted(here.directory.rglob("*"))

    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(here.root))

    monkeypatch.setattr(msharefs, "needs_mount", lambda spec: False)
    monkeypatch.setattr(roots, "set_access", fail)
    with pytest.raises(OSError, match="Input/output"):
        msharefs.mount(msharefs.complete(MountSpec("simulated", str(here.root))))
    assert sorted(here.directory.rglob("*")) == before


def test_a_second_try_that_fails_keeps_the_record_of_the_first(here, monkeypatch):
    monkeypatch.setattr(msharefs, "needs_mount", lambda spec: False)
    spec = msharefs.complete(MountSpec("simulated", str(here.root)))
    os.truncate(here.root / ".simulated" / "layout.json", 0)
    record = msharefs._record(spec.root)
    files.write_text(record, spec.to_json())

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(here.root))

    monkeypatch.setattr(roots, "lay_out", fail)
    with pytest.raises(OSError, match="No space"):
        msharefs.mount(spec)
    assert os.path.exists(record)
