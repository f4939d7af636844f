# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated msharefs of root's, attacked by a member of its group: another, real user."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import signal
import stat
import subprocess
from dataclasses import replace

import pytest

from mshare import files
from mshare.backends import root as roots
from mshare.backends.mapping import Mapping
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.backends.simulated.layout import Layout, Placed
from mshare.errors import Conflict, sentence
from mshare.host import procfs
from mshare.kernel import abi
from mshare.services import lock
from rig.other_user import UID, as_other, needs_root, running_as_other

pytestmark = needs_root


@pytest.fixture
def victim(shared):
    path = shared / "victim"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def root(shared):
    """The mode and group that `mshare mount --group` gives."""
    path = shared / "msharefs"
    path.mkdir()
    Layout.create(str(path), "2025-08").set_access(0o1770, UID)
    return path


@pytest.fixture
def backend(root):
    return SimulatedBackend(str(root))


def untouched(victim):
    status = victim.stat()
    return (victim.read_text(), stat.S_IMODE(status.st_mode), status.st_uid) == ("secret\n", 0o600, 0)


def create(backend, name="sga", mode=0o660):
    region = backend.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    region.set_access(mode, -1, UID)
    return region


@pytest.mark.parametrize(
    "place", ["{}", ".simulated/{}.json", ".simulated/{}.bell", ".simulated/.{}.json.new"]
)
def test_a_link_in_the_place_of_a_new_region_s_file_is_not_followed(backend, root, victim, place):
    as_other(lambda: (root / place.format("sga")).symlink_to(victim))
    if place == "{}":
        with pytest.raises(FileExistsError):
            create(backend)
    else:
        create(backend).close()
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT):
        if place == "{}":
            with pytest.raises(files.NotTrusted, match="a symbolic link"):
                backend.open("sga", flags)
    assert untouched(victim)
    backend.unlink("sga")
    assert untouched(victim)


def test_a_region_replaced_by_a_link_before_its_access_changes(backend, root, victim):
    """The owner of a region renames it, and has root give the victim's file to him."""
    region = create(backend)
    region.set_access(0o660, UID, UID)

    def replace():
        os.rename(root / "sga", root / "kept")
        (root / "sga").symlink_to(victim)

    as_other(replace)
    with pytest.raises(files.NotTrusted, match="sga is a symbolic link"):
        roots.set_region_access(str(root), "sga", 0o666, UID, UID)
    assert untouched(victim)
    region.close()


def test_a_region_replaced_by_another_file(backend, root):
    region = create(backend)
    region.set_access(0o660, UID, UID)

    def replace():
        os.rename(root / "sga", root / "kept")
        (root / "sga").write_text("")

    as_other(replace)
    with pytest.raises(files.NotTrusted, match="not the file that was created there"):
        roots.set_region_access(str(root), "sga", 0o666, 0, 0)
    with pytest.raises(files.NotTrusted, match="not the record of the region's file"):
        backend.open("sga", os.O_RDWR)
    region.close()


def test_no_swap_of_a_sidecar_wins_while_regions_are_made(backend, root, victim):
    """200 regions are made and given access while somebody puts links in the place of their files."""

    def swap():
        for number in itertools.count():
            path = root / ".simulated" / ("r.json", "r.bell", ".r.json.new", ".r.bell.new")[number % 4]
            try:
                path.symlink_to(victim)
            except OSError:
                try:
                    path.unlink()
                except OSError:
                    continue

    made = 0
    with running_as_other(swap):
        for __ in range(200):
            try:
                create(backend, "r").close()
                roots.set_region_access(str(root), "r", 0o666, UID, UID)
                made += 1
            except (files.NotTrusted, OSError):
                pass
            roots.unlink(str(root), "r")
    assert untouched(victim)


@pytest.mark.parametrize("place", ["sga", ".simulated/sga.json", ".simulated/sga.bell"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_odd_files_in_the_place_of_a_region_s_hang_nobody(backend, root, place, make):
    region = create(backend)
    region.set_access(0o660, UID, UID)

    def replace():
        os.rename(root / place, root / "kept")
        make(root / place)

    as_other(replace)
    if (place, make) != (".simulated/sga.bell", os.mkfifo):
        # A directory of regions is no trap, and no region.
        is_directory = (place, make) == ("sga", os.mkdir)
        with pytest.raises(IsADirectoryError if is_directory else files.NotTrusted) as caught:
            backend.open("sga", os.O_RDWR)
        belongs = "a FIFO" if place.endswith(".bell") else "a regular file"
        if not is_directory:
            assert str(caught.value).endswith(
                f" where {belongs} belongs; `mshare rm sga --force` ends what is left of the region"
            )
    assert roots.peek(str(root), "sga") is None or place == "sga" or make is os.mkfifo
    region.close()


def test_a_sidecar_that_is_a_hard_link_to_another_region_is_refused(backend, root):
    """Written to, it would be the memory of the other."""
    create(backend, "other").close()
    region = create(backend)
    os.unlink(root / ".simulated" / "sga.json")
    os.link(root / "other", root / ".simulated" / "sga.json")
    with pytest.raises(files.NotTrusted, match="2 hard links"):
        backend.open("sga", os.O_RDWR)
    region.close()


# -- objects in a forged sidecar


def forged(root, path, holder=0, holder_fd=-1, writable=True):
    """A member writes a mapping of a file into a region's sidecar, as `create_mapping` would."""
    found = path.stat()

    def forge():
        sidecar = Layout.read(str(root)).sidecar("sga")
        with sidecar.change() as change:
            prot = abi.PROT_READ | (abi.PROT_WRITE if writable else 0)
            mapping = Mapping(0, abi.PAGE_BYTES, "file", prot, path=str(path))
            entry = Placed(mapping, 7, found.st_dev, found.st_ino, holder, holder_fd)
            change.record = replace(change.record, placed=[entry])
        sidecar.close()

    return forge


def window_of(backend):
    region = backend.open("sga", os.O_RDWR)
    try:
        return region.attach(backend.alignment_bytes)
    finally:
        region.close()


@pytest.fixture
def sized(backend):
    region = create(backend)
    region.set_size(backend.alignment_bytes)
    yield region
    region.close()


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("owner", [0, UID])
def test_root_maps_no_file_that_only_root_may_open(backend, root, sized, victim, owner, writable):
    sized.set_access(0o660, owner, UID)
    as_other(forged(root, victim, writable=writable))
    with pytest.raises(PermissionError) as caught:
        window_of(backend)
    assert caught.value.errno == errno.EACCES
    assert sentence(caught.value) == (
        f"{victim} is not mapped: the region's record names it, but those who may change the record (uid"
        f" {owner}, gid {UID}, mode 0660) may not {'write' if writable else 'read'} it; give them access to"
        " the file, or have its owner map it"
    )
    assert untouched(victim)


def test_a_process_of_root_s_that_is_not_in_the_region_is_no_proof(backend, root, sized, victim):
    """It has the file open, but for something else."""
    with subprocess.Popen(["sleep", "1000"], stdin=open(victim, "r+b")) as other:
        as_other(forged(root, victim, other.pid, 0))
        with pytest.raises(PermissionError, match="may not write it"):
            window_of(backend)
        other.kill()
    assert untouched(victim)


def test_root_maps_what_root_mapped_into_a_group_s_region(backend, root, victim, sized):
    """The process that mapped it has it open, and the region as well."""
    held = os.open(victim, os.O_RDWR)
    as_other(forged(root, victim, os.getpid(), held))
    window_of(backend).detach()
    os.close(held)


def test_root_maps_a_member_s_own_file(backend, root, shared, sized):
    own = shared / "own"
    own.write_text("member's\n")
    own.chmod(0o600)
    os.chown(own, UID, UID)
    sized.set_access(0o660, UID, UID)
    as_other(forged(root, own))
    window_of(backend).detach()


@pytest.mark.parametrize(
    ("mode", "gid", "maps"), [(0o660, UID, True), (0o660, 0, False), (0o640, UID, False), (0o666, 0, True)]
)
def test_root_maps_what_the_group_or_everybody_may_open(backend, root, victim, sized, mode, gid, maps):
    os.chown(victim, 0, gid)
    victim.chmod(mode)
    as_other(forged(root, victim))
    with contextlib.nullcontext() if maps else pytest.raises(PermissionError, match="may not write it"):
        window_of(backend).detach()


# -- locks


def held_by_other(path, ready):
    def hold():
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(ready, b"x")
        signal.pause()

    return hold


@pytest.fixture
def few_looks(monkeypatch):
    monkeypatch.setattr(lock, "_LOOKS", 5)


def test_a_lock_on_the_layout_stops_no_reader_and_a_writer_names_the_holder(backend, root, few_looks):
    region = create(backend)
    ready = os.pipe()
    with running_as_other(held_by_other(root / ".simulated" / "layout.json", ready[1])) as holder:
        os.read(ready[0], 1)
        assert roots.peek(str(root), "sga").window_bytes == 0
        backend.open("sga", os.O_RDONLY).close()
        for change in (lambda: create(backend, "new"), lambda: backend.unlink("sga")):
            with pytest.raises(Conflict) as caught:
                change()
            assert str(caught.value) == (
                f"the msharefs at {root} cannot be changed: process {holder} ({procfs.command(holder)}) holds"
                " its lock; wait for it to end, or stop it"
            )
    backend.unlink("sga")
    region.close()
    for end in ready:
        os.close(end)


def test_a_lock_on_a_sidecar_stops_no_reader_and_a_writer_names_the_holder(backend, root, few_looks):
    region = create(backend)
    ready = os.pipe()
    sidecar = root / ".simulated" / "sga.json"
    with running_as_other(held_by_other(sidecar, ready[1])) as holder:
        os.read(ready[0], 1)
        assert roots.peek(str(root), "sga").window_bytes == 0
        backend.open("sga", os.O_RDONLY).close()
        with pytest.raises(Conflict) as caught:
            region.set_size(backend.alignment_bytes)
        assert str(caught.value).startswith(f"{sidecar} cannot be changed: process {holder} (")
        backend.unlink("sga")
    region.close()
    for end in ready:
        os.close(end)


def test_a_lock_that_a_child_of_its_taker_holds_names_the_child(shared):
    """The kernel goes on naming the process that took it."""
    path = shared / "lock"
    path.touch()
    to_test, from_test = os.pipe(), os.pipe()
    taker = os.fork()
    if taker == 0:
        fd = os.open(path, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if (child := os.fork()) == 0:
            os.close(from_test[1])
            os.read(from_test[0], 1)
            os._exit(0)
        os.write(to_test[1], f"{child}\n".encode())
        os._exit(0)
    os.waitpid(taker, 0)
    child = int(os.read(to_test[0], 32))
    assert lock.holder(str(path)) == child
    for end in (*to_test, *from_test):
        os.close(end)
