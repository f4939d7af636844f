# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories of regions: made, changed and removed as requested, and a boundary between users."""

from __future__ import annotations

import errno
import grp
import os
import stat
from pathlib import Path

import pytest

from mshare import paths
from mshare.backends import root as roots
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.converge.outcome import Outcome
from mshare.errors import Conflict, InvalidRequest, Unavailable
from mshare.host import mounts, segments
from mshare.info import inventory
from mshare.mount import converge, directories, msharefs
from mshare.mount.spec import MountSpec
from mshare.region.converge import RegionPresent
from mshare.region.region import Region
from mshare.region.spec import RegionSpec
from rig.faults import fail_at
from rig.other_user import UID, as_other, needs_root
from rig.world import World

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
OWN_GROUP = grp.getgrgid(os.getegid()).gr_name
TENANT, OTHER = UID, UID + 1


def request(world: World, *wanted: dict[str, object], check: bool = False) -> Outcome:
    fields = {"mode": "0751", "directories": list(wanted)}
    spec = MountSpec.from_dict({"backend": "simulated", "root": str(world.root), **fields})
    return converge.mount_present(spec, check=check)


def access(path: Path) -> tuple[str, int]:
    status = path.stat()
    return f"{stat.S_IMODE(status.st_mode):04o}", status.st_gid


def test_they_are_made_once_with_their_access(here: World) -> None:
    wanted = [{"name": "sales/emea", "mode": "2750"}, {"name": "sales", "group": OWN_GROUP}]
    announced = request(here, *wanted, check=True)
    assert {"make directory sales", "make directory sales/emea"} < {*announced.actions}
    assert roots.directories(str(here.root)) == []
    made = request(here, *wanted)
    assert made.actions == announced.actions
    assert made.actions.index("make directory sales") < made.actions.index("make directory sales/emea")
    assert access(here.root / "sales") == ("3770", os.getegid())
    assert access(here.root / "sales/emea")[0] == "2750"
    assert access(here.root / "sales/.simulated") == access(here.root / "sales")
    sides = [{"name": "sales", "mode": "3770", "group": OWN_GROUP}, {"name": "sales/emea", "mode": "2750"}]
    assert (made.before["directories"], made.after["directories"]) == ([], sides)
    assert made.facts is not None
    assert [each.name for each in made.facts.directories] == ["sales", "sales/emea"]
    for again in (request(here, *wanted), request(here, *wanted, check=True), request(here)):
        assert (again.changed, again.actions, again.before) == (False, [], again.after)


def test_access_that_differs_is_set_also_where_the_sidecars_are(here: World) -> None:
    request(here, {"name": "sales"})
    changed = request(here, {"name": "sales", "mode": "2770"})
    assert "set mode and group of directory sales" in changed.actions
    assert access(here.root / "sales")[0] == access(here.root / "sales/.simulated")[0] == "2770"


def test_one_that_is_not_listed_stays_and_is_made_again_after_a_boot(here: World) -> None:
    request(here, {"name": "sales", "mode": "2770"})
    request(here, {"name": "payroll"})
    # As after a boot: the root is empty, and its record is all there is.
    for name in ("sales", "payroll"):
        roots.remove_directory(str(here.root), name)
    assert {"make directory payroll", "make directory sales"} <= {*request(here).actions}
    assert access(here.root / "sales")[0] == "2770"
    removed = request(here, {"name": "sales", "state": "absent"})
    assert "remove directory sales" in removed.actions
    assert roots.directories(str(here.root)) == ["payroll"]
    assert request(here, {"name": "sales", "state": "absent"}).actions == []
    assert request(here).actions == []


def test_only_an_empty_one_is_removed(here: World) -> None:
    request(here, {"name": "a"}, {"name": "a/b"})
    backend = SimulatedBackend(str(here.root))
    absent = [{"name": "a", "state": "absent"}, {"name": "a/b", "state": "absent"}]
    with Region.create("a/b/r", "1MiB", backend=backend):
        for wanted in ([absent[0]], absent):
            with pytest.raises(
                Conflict, match=r"is not empty: it has a/b.*only an empty directory is removed"
            ):
                request(here, *wanted)
        backend.unlink("a/b/r")
    (here.root / "a/file").write_text("somebody's")
    with pytest.raises(Conflict, match=r"directory a at .* is not empty: it has a/file"):
        request(here, *absent)
    assert roots.directories(str(here.root)) == ["a", "a/b"]
    (here.root / "a/file").unlink()
    removed = request(here, *absent).actions
    assert removed.index("remove directory a/b") < removed.index("remove directory a")
    assert not (here.root / "a").exists()


def test_sidecars_that_a_killed_process_left_do_not_keep_it(here: World) -> None:
    request(here, {"name": "a"})
    backend = SimulatedBackend(str(here.root))
    Region.create("a/r", "1MiB", backend=backend).close()
    (here.root / "a/r").unlink()
    assert sorted(os.listdir(here.root / "a/.simulated")) == ["r.bell", "r.json"]
    request(here, {"name": "a", "state": "absent"})
    assert not (here.root / "a").exists()


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        *(
            ([{"name": name}], "directory name .* cannot be used; write letters, digits")
            for name in (
                "..",
                "a/../b",
                "/a",
                "a/",
                "a//b",
                ".a",
                "a/.simulated",
                "mshare_info",
                "layout",
                "a:b",
            )
        ),
        ([{"name": "a/b/c/d"}], "directory name 'a/b/c/d' has 3 directories above it; at most 2 are allowed"),
        ([{"name": ""}], "a directory needs a name, like sales, but the name is empty"),
        ([{}], "a directory needs a name"),
        ([{"name": "a", "owner": "x"}], "has the unknown key 'owner'"),
        ([{"name": "a", "mode": 1528}], "is not text, and YAML reads some numbers differently"),
        ([{"name": "a", "state": "gone"}], "state 'gone' is unknown; write one of present, absent"),
        ([{"name": "a"}, {"name": "a"}], "have a more than once; use one entry per directory"),
        (
            [{"name": "a/b"}, {"name": "a", "state": "absent"}],
            "have a/b present in a, which should be absent",
        ),
        (
            [{"name": "a", "group": "nosuchgroup"}],
            "should belong to group 'nosuchgroup', which does not exist",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    here: World, wanted: list[dict[str, object]], sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        request(here, {"name": "good"}, *wanted)
    assert roots.directories(str(here.root)) == []


def test_what_has_the_name_already_stays(here: World) -> None:
    with Region.create("r", "1MiB", backend=SimulatedBackend(str(here.root))):
        with pytest.raises(
            Conflict, match=r"directory r cannot be at .* is a regular file, such as a region"
        ):
            request(here, {"name": "good"}, {"name": "r"})
        with pytest.raises(Conflict, match="directory a/b lies in directory a, which is not at"):
            request(here, {"name": "good"}, {"name": "a/b"})
    assert roots.directories(str(here.root)) == []


def test_a_region_needs_its_directory_and_a_name_of_its_own(here: World) -> None:
    wanted = RegionPresent(
        RegionSpec.from_dict({"name": "a/r", "size": "1MiB", "root": str(here.root)}), ["false"]
    )
    with pytest.raises(
        Unavailable, match=r"region a/r lies in directory a, which is not at .*--directory name=a"
    ):
        wanted.converge(False)
    # The step before may be what makes it.
    assert "create region a/r" in wanted.converge(True).actions[0]
    request(here, {"name": "a"})
    taken = RegionPresent(
        RegionSpec.from_dict({"name": "a", "size": "1MiB", "root": str(here.root)}), ["false"]
    )
    with pytest.raises(Conflict, match="a is a directory of regions; choose another name"):
        taken.converge(False)
    facts = inventory.region_facts(str(here.root), "a")
    assert (facts.exists, facts.health) == (False, "missing")


def test_names_that_look_alike_share_no_file(here: World) -> None:
    """sales/sga and sales.sga: region, sidecar, status, lock, log, specification, and owner."""
    request(here, {"name": "sales"})
    names = ["sales.sga", "sales/sga", "sga"]
    for name in names:
        here.ok("create", name, "--size", "1MiB")
    assert [each["name"] for each in here.json("list")["regions"]] == names
    assert len({here.region(name)["owner"]["pid"] for name in names}) == 3
    assert sorted(os.listdir(here.config / "regions")) == sorted(f"{paths.file_name(n)}.json" for n in names)
    listed = here.json("list")["directories"]
    assert [(each["name"], each["mode"]) for each in listed] == [("sales", "3770")]
    here.ok("rm", "sales/sga")
    assert {name: here.health(name) for name in names} == {
        **dict.fromkeys(names, "healthy"),
        "sales/sga": None,
    }
    for name in ("sales.sga", "sga"):
        here.ok("rm", name)
    assert list(here.processes()) == []


def tenants(world: World) -> SimulatedBackend:
    """Two directories, each for one other user only."""
    for above in (world.directory, world.root):
        above.chmod(0o755)
    for name, gid in (("sales", TENANT), ("payroll", OTHER)):
        roots.make_directory(str(world.root), name, 0o3770, gid)
    roots.set_access(str(world.root), 0o711, -1)
    return SimulatedBackend(str(world.root))


@needs_root
def test_a_tenant_has_his_directory_and_reaches_no_other(here: World) -> None:
    backend = tenants(here)
    (here.root / "open").mkdir()

    def own() -> None:
        with Region.create("sales/sga", "1MiB", backend=backend) as region:
            status = region.stat()
            assert (status.uid, status.gid) == (TENANT, TENANT)
            # Open to everybody: what keeps others out is the directory.
            region.set_access(0o666)
            with region.attach() as attached:
                attached.memory[:3] = b"tom"

    def intrude() -> None:
        for attempt in (
            lambda: backend.open("sales/sga", os.O_RDONLY),
            lambda: backend.open("sales/mine", NEW),
            lambda: backend.unlink("sales/sga"),
            lambda: roots.make_directory(str(here.root), "mine", 0o777, -1),
            lambda: roots.set_directory_access(str(here.root), "sales", 0o777, -1),
            lambda: roots.remove_directory(str(here.root), "sales"),
        ):
            with pytest.raises((PermissionError, Conflict)):
                attempt()
        # Nor keep another tenant from making regions: the lock of a directory's names is in it.
        with pytest.raises(PermissionError):
            os.open(here.root / "sales/.simulated", os.O_RDONLY)
        assert roots.peek(str(here.root), "sales/sga") is None

    as_other(own, TENANT)
    as_other(intrude, OTHER)
    assert backend.names() == ["sales/sga"]
    assert access(here.root / "sales") == ("3770", TENANT)


@needs_root
def test_root_follows_nothing_that_a_tenant_put_there(here: World, shared: Path) -> None:
    backend = tenants(here)
    root = str(here.root)
    secret = shared / "secret"
    secret.mkdir(mode=0o700)
    (secret / "sga").write_text("root's")

    def plant() -> None:
        os.symlink(secret, here.root / "sales/emea")
        os.symlink(secret / "sga", here.root / "sales/link")
        os.mkdir(here.root / "sales/mine")

    as_other(plant, TENANT)
    assert backend.names() == ["sales/emea", "sales/link"]
    assert roots.directories(root) == ["payroll", "sales", "sales/mine"]
    for name in ("sales/emea", "sales/mine"):
        with pytest.raises(Conflict, match=r"emea is a symbolic link|mine belongs to"):
            request(here, {"name": name})
        with pytest.raises(Conflict):
            request(here, {"name": name, "state": "absent"})
    for name in ("sales/emea/sga", "sales/link"):
        with pytest.raises((OSError, Conflict)):
            backend.open(name, os.O_RDWR)
        with pytest.raises((OSError, Conflict)):
            roots.set_region_access(root, name, 0o666, -1, -1)
        assert inventory.region_facts(root, name).mode in (None, "0777")
    with pytest.raises(Unavailable, match="directory sales/emea, which is not at"):
        roots.require_place(root, "sales/emea/sga")
    for name in ("sales/emea", "sales/link"):
        roots.unlink(root, name)
    assert (secret / "sga").read_text() == "root's"
    assert access(secret)[0] == "0700"


@needs_root
def test_a_directory_that_a_tenant_swaps_gets_no_access_of_root(here: World) -> None:
    """A program of his that ran as another group, or a directory in which he reads what others make."""
    tenants(here)
    root = str(here.root)
    roots.set_directory_access(root, "sales", 0o2770, TENANT)

    def swap() -> None:
        (here.root / "sales/program").write_text("#!/bin/sh\n")
        (here.root / "sales/program").chmod(0o755)
        (here.root / "sales/folder").mkdir()

    as_other(swap, TENANT)
    for name in ("program", "folder"):
        with pytest.raises(Conflict):
            roots.set_directory_access(root, f"sales/{name}", 0o2770, OTHER)
        assert access(here.root / "sales" / name)[1] == TENANT


def test_a_directory_made_by_other_means_takes_regions(here: World) -> None:
    """On a kernel's msharefs anybody may make one."""
    (here.root / "made").mkdir(mode=0o750)
    with Region.create("made/r", "1MiB", backend=SimulatedBackend(str(here.root))):
        assert access(here.root / "made/.simulated") == access(here.root / "made")
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        SimulatedBackend(str(here.root)).open("nope/r", NEW)


def test_only_those_that_are_asked_about_are_looked_at(here: World) -> None:
    request(here, {"name": "a", "mode": "2770"}, {"name": "b"})
    seen = directories.observe(str(here.root), ["a", "a/b", "c"])
    assert seen == {"a": directories.DirectorySeen(0o2770, seen["a"].gid)}


def test_the_root_goes_with_its_directories(here: World) -> None:
    request(here, {"name": "a"}, {"name": "a/b"})
    with Region.create("a/b/r", "1MiB", backend=SimulatedBackend(str(here.root))):
        roots.take_down(str(here.root))
    assert os.listdir(here.root) == []


@pytest.mark.parametrize(
    ("path", "region"),
    [
        (b"/run/msharefs/sga", "sga"),
        (b"/run/msharefs/sales/sga (deleted)", "sales/sga"),
        # A container that was given a tenant's directory only.
        (b"/srv/tenant/sga", "sales/sga"),
        (b"/srv/tenant/emea/sga", "sales/emea/sga"),
        # A mount that nobody knows.
        (b"/elsewhere/sales/sga", "sga"),
    ],
)
@pytest.mark.parametrize("filesystem", [("msharefs", "none"), ("tmpfs", paths.SIMULATED_SOURCE)])
def test_a_survey_names_a_region_with_its_directory(
    path: bytes, region: str, filesystem: tuple[str, str]
) -> None:
    lines = "36 25 0:33 / /run/msharefs rw - tmpfs x rw\n37 25 0:33 /sales /srv/tenant rw - tmpfs x rw\n"
    places = tuple((mount.path, mount.inside) for mount in mounts.parse_mounts(lines))
    mapping = segments.Mapping(0, 4096, 0, True, b"00:21", 7, path)
    assert segments.kind(mapping, segments.Filesystem(*filesystem, places=places)).region == region


@pytest.mark.parametrize(
    "path",
    [
        b"/dev/shm/msharefs-1000/sales/sga",
        # A region without a file.
        b"/memfd:mshare-region:sales/sga (deleted)",
    ],
)
def test_a_survey_names_a_region_by_the_path_alone(path: bytes) -> None:
    mapping = segments.Mapping(0, 4096, 0, True, b"00:21", 7, path)
    kind = segments.kind(mapping, segments.Filesystem("tmpfs", "tmpfs"))
    assert (kind.kind, kind.region) == ("msharefs", "sales/sga")


def snapshot(world: World) -> dict[str, tuple[str, int]]:
    return {str(path): access(path) for path in (world.root, *world.root.rglob("*"))}


@pytest.mark.parametrize(
    ("target", "name"),
    [(inventory, "mount_facts"), (converge._Mount, "_require_done")],
    ids=["facts", "done"],
)
def test_all_is_put_back_where_the_look_afterwards_fails(
    here: World, monkeypatch: pytest.MonkeyPatch, target: object, name: str
) -> None:
    request(here, {"name": "sales"}, {"name": "old", "mode": "2750"})
    record = next((here.config / "mounts").iterdir())
    before = snapshot(here), record.read_text()
    wanted = [
        {"name": "sales", "mode": "2770"},
        {"name": "old", "state": "absent"},
        {"name": "new"},
    ]
    fields = {"mode": "0711", "directories": wanted}
    spec = MountSpec.from_dict({"backend": "simulated", "root": str(here.root), **fields})
    with monkeypatch.context() as patch:
        fail_at(patch, target, name, {1})
        with pytest.raises(OSError, match="Input/output error"):
            converge.mount_present(spec)
    assert (snapshot(here), record.read_text()) == before
    assert converge.mount_present(spec).changed


def test_a_new_msharefs_is_taken_away_where_the_look_afterwards_fails(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots.take_down(str(here.root))
    here.root.rmdir()
    before = sorted(here.directory.rglob("*"))
    monkeypatch.setattr(msharefs, "needs_mount", lambda spec: False)
    fail_at(monkeypatch, inventory, "mount_facts", {1})
    with pytest.raises(OSError, match="Input/output error"):
        request(here, {"name": "sales"})
    assert sorted(here.directory.rglob("*")) == before
