# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has a region mapped is found by its file, and named."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mshare.errors import MshareError
from mshare.host import procfs
from mshare.info import attached
from mshare.info.attached import Process
from mshare.mount.converge import mount_absent
from mshare.region.converge import RegionAbsent, RegionPresent
from mshare.region.spec import RegionSpec
from mshare.savings.validate import validate
from rig.other_user import as_other, needs_root
from rig.world import NOBODY, World, new_world

# A database: one process that maps the file and forks; the last fork is somebody else's, if that may be.
FORKS = f"""
import mmap, os, sys
path, count = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096)
for number in range(count - 1):
    if os.fork() == 0:
        if number == count - 2 and os.geteuid() == 0:
            os.setuid({NOBODY})
        break
os.write(1, b"%d\\n" % os.getpid())
sys.stdin.read()
"""


RESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as one:
        yield one


def names(found: list[Process]) -> list[int]:
    return [one.pid for one in found]


def test_processes_that_map_the_file(world: World) -> None:
    region = world.root / "sga"
    region.write_bytes(bytes(4096))
    (world.root / "other").write_bytes(bytes(4096))
    command = [sys.executable, "-c", FORKS, str(region), "12"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = sorted(int(process.stdout.readline()) for __ in range(12))
        found = attached.processes(str(world.root), "sga")
        assert attached.processes(str(world.root), "other") == []
        process.communicate()
    assert names(found) == pids
    assert found[0].command.startswith(f"{os.path.basename(sys.executable)} -c")
    assert "\n" in FORKS.strip()
    assert "\n" not in str(found[0])
    if os.geteuid() == 0:
        assert {one.user for one in found} == {"root", "nobody"}
    said = attached.summary(found)
    assert said.endswith(" and 2 more")
    assert re.findall(r"(?:^|, )(\d+) ", said) == [str(pid) for pid in pids[:10]]


def test_those_of_a_version_that_writes_other_status_files(world: World) -> None:
    """Whoever only says who is there needs nothing that this version cannot read."""
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2")
    for role in ("owner", "clients"):
        (file,) = world.state.rglob(f"sga.{role}.json")
        fields = json.loads(file.read_text())
        kept = {key: fields[key] for key in ("pid", "started_ticks")}
        file.write_text(json.dumps({**kept, "schema_version": 99, "version": "7.8.9"}))
    refused = world.run("umount", "--root", str(world.root))
    assert refused.returncode == 5
    said = " ".join(refused.stderr.split())
    assert re.search(r"region sga \(owner \d+; launcher \d+; 2 attached: \d+ ", said), said
    refused = world.run("rm", "sga", "--force")
    assert refused.returncode == 5
    assert "of version 7.8.9 of the library in schema 99" in " ".join(refused.stderr.split())


def test_none_is_attached_to_what_is_not_there(world: World) -> None:
    assert attached.processes(str(world.root), "sga") == []


@needs_root
def test_processes_that_cannot_be_read_are_counted_and_said() -> None:
    """One of root's with a window, as nobody sees it; those that are smaller than a window count only where
    its size is not known."""
    window_bytes = 77 << 40
    program = (
        f"import mmap; m = mmap.mmap(-1, {window_bytes}, flags={RESERVED}); print(1, flush=True); input()"
    )

    def look() -> None:
        said = attached.unread(window_bytes)
        assert said == (
            "1 process could not be read, so whether one of them has the region attached is not known; run as"
            " root (become: true)"
        )
        # The first process of all is root's as well.
        several = attached.unread(None)
        assert several is not None
        assert 2 <= int(several.split()[0].replace(",", "")) <= len(procfs.pids())

    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        as_other(look)
        # Root reads it.
        assert attached.unread(window_bytes) is None
        process.communicate("\n")


def test_who_ends_or_validates_a_region_is_told(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unread(window_bytes: int | None) -> str:
        asked.append(window_bytes)
        return "3 processes could not be read"

    monkeypatch.setattr(attached, "unread", unread)
    where = {"backend": "simulated", "root": str(here.root)}
    with here.owned():
        removing = RegionAbsent("sga", **where).converge(True)
        assert removing.warnings == ["removing region sga: 3 processes could not be read"]
        assert RegionAbsent("sga", **where, force=True).converge(True).warnings == []
        larger = RegionSpec.from_dict({"name": "sga", "size": "128MiB", **where})
        recreating = RegionPresent(larger, ["false"], recreate=True).converge(True)
        assert "recreating region sga: 3 processes could not be read" in recreating.warnings
        same = RegionSpec.from_dict({"name": "sga", "size": "64MiB", "pattern": True, **where})
        assert RegionPresent(same, ["false"]).converge(True).warnings == []
        with pytest.raises(MshareError, match=r"nothing to validate.*\. 3 processes could not be read"):
            validate("sga", **where)
        unmounting = mount_absent(str(here.root), force=True, check=True)
        assert unmounting.warnings == [f"unmounting {here.root}: 3 processes could not be read"]
    assert {*asked} == {512 << 30}


def test_a_proc_that_hides_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached.mounts, "hidepid", lambda: "invisible")
    monkeypatch.setattr(attached.procfs, "may_trace", lambda: False)
    assert attached.unread(1) == (
        "/proc hides the processes of other users (hidepid=invisible), so whether one of them has the region"
        " attached is not known; run as root (become: true)"
    )


@pytest.mark.parametrize(
    ("process", "said"),
    [
        (
            Process(7, "postgres: writer", "postgres", "postgresql.service"),
            "7 postgres: writer (user postgres, postgresql.service)",
        ),
        (Process(7, "[gone]", "1000", None), "7 [gone] (user 1000)"),
    ],
)
def test_a_process_in_words(process: Process, said: str) -> None:
    assert attached.summary([process]) == said


def test_attached_programs_of_others_are_in_the_way(world: World) -> None:
    """A program that no launcher of ours started counts as well."""
    with world.owned("sga") as owner, world.started("attach", "sga", "--hold") as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = world.run("rm", "sga")
        assert refused.returncode == 5
        assert f"removing region sga would kill 1 attached client: {holder.pid} " in refused.stderr.replace(
            "\n", " "
        )
        in_use = world.run("umount", "--root", str(world.root))
        assert f"region sga (owner {owner.pid}; 1 attached: {holder.pid} " in in_use.stderr.replace("\n", " ")
        assert world.run("rm", "sga", "--force").returncode == 0
