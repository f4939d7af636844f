# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated window: what it maps, what it blanks, when it frees memory, and whose files it opens."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mshare.backends.connect import connect
from mshare.backends.simulated import window
from mshare.backends.simulated.backend import SimulatedBackend
from mshare.backends.simulated.window import SimulatedWindow
from mshare.kernel import abi, syscalls
from mshare.kernel.syscalls import NewMapping
from mshare.units import MIB
from rig.faults import fail_at, open_files
from rig.world import World

READ_WRITE = abi.PROT_READ | abi.PROT_WRITE
ANONYMOUS = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS


@pytest.fixture
def backend(here: World) -> SimulatedBackend:
    return cast(SimulatedBackend, connect("simulated", str(here.root)))


@pytest.fixture
def attached(backend: SimulatedBackend) -> Iterator[SimulatedWindow]:
    """The window of a region of this process that has nothing mapped yet."""
    file = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    file.set_size(backend.alignment_bytes)
    made = file.attach(backend.alignment_bytes)
    yield cast(SimulatedWindow, made)
    made.detach()
    file.close()
    backend.unlink("sga")


def access(address: int) -> str:
    """The letters of maps for what lies at an address."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, letters, *__ = line.split()
        start, end = (int(text, 16) for text in addresses.split("-"))
        if start <= address < end:
            return letters
    return "none"


def test_what_is_not_mapped_is_a_hole(attached: SimulatedWindow) -> None:
    assert access(attached.address) == access(attached.address + MIB) == "---p"


def test_a_mapping_appears_and_goes(attached: SimulatedWindow, backend: SimulatedBackend) -> None:
    file = backend.open("sga", os.O_RDWR)
    file.create_mapping(NewMapping(MIB, MIB, READ_WRITE, ANONYMOUS))
    syscalls.memory(attached.address + MIB, 1)[0] = 7
    assert (access(attached.address), access(attached.address + MIB)) == ("---p", "rw-s")
    file.unmap(MIB, MIB)
    assert access(attached.address + MIB) == "---p"
    file.create_mapping(NewMapping(MIB, MIB, READ_WRITE, ANONYMOUS))
    assert syscalls.memory(attached.address + MIB, 1)[0] == 0, "anonymous memory is freed by its unmap"
    file.close()


def test_a_file_is_mapped_with_the_access_that_was_asked_for(
    attached: SimulatedWindow, backend: SimulatedBackend, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(b"x" * MIB)
    file = backend.open("sga", os.O_RDWR)
    with open(tmp_path / "data", "rb") as data:
        flags = abi.MAP_SHARED | abi.MAP_FIXED
        file.create_mapping(NewMapping(0, MIB, abi.PROT_READ, flags, data.fileno()))
    assert access(attached.address) == "r--s"
    assert bytes(syscalls.memory(attached.address, 1)) == b"x"
    file.close()


def test_detaching_twice_is_fine_and_unmaps_all(backend: SimulatedBackend) -> None:
    file = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    file.set_size(backend.alignment_bytes)
    made = file.attach(backend.alignment_bytes)
    made.detach()
    made.detach()
    assert access(made.address) == "none"
    file.close()
    backend.unlink("sga")


@pytest.mark.parametrize("held", [True, False])
def test_memory_is_freed_once_nobody_has_the_region(tmp_path: Path, held: bool) -> None:
    path = tmp_path / "region"
    path.write_bytes(b"x" * 4096)
    last, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    if held:
        fcntl.flock(other, fcntl.LOCK_SH)
    window.bury(last)
    assert path.stat().st_size == (4096 if held else 0)
    os.close(last)
    os.close(other)


def test_a_file_is_opened_again_for_writing_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "region").write_bytes(b"")
    fd = os.open(tmp_path / "region", os.O_RDONLY)
    again = window.reopened(fd)
    assert (window.access_mode(fd), window.access_mode(again)) == (os.O_RDONLY, os.O_RDWR)
    os.close(fd)
    os.close(again)


def test_a_refusal_has_number_text_and_path() -> None:
    error = window.refusal(errno.EACCES, "/x")
    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "Permission denied", "/x")


def stat_of(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return cast(os.stat_result, SimpleNamespace(st_mode=mode, st_uid=uid, st_gid=gid))


@pytest.mark.parametrize(
    ("file", "writers", "writes", "granted"),
    [
        # Everybody may: whoever wrote the record may as well.
        (stat_of(0o644), stat_of(0o666, uid=1000), False, True),
        (stat_of(0o644), stat_of(0o600, uid=1000), True, False),
        (stat_of(0o666), stat_of(0o600, uid=1000), True, True),
        # The record is another user's, who may name files of their own only.
        (stat_of(0o600, uid=1000), stat_of(0o600, uid=1000), True, True),
        (stat_of(0o600, uid=0), stat_of(0o600, uid=1000), False, False),
        # The record is ours; a group or everybody may change it.
        (stat_of(0o600), stat_of(0o600, uid=os.geteuid()), True, True),
        (stat_of(0o600), stat_of(0o602, uid=os.geteuid()), False, False),
        (stat_of(0o640, gid=7), stat_of(0o660, uid=os.geteuid(), gid=7), False, True),
        (stat_of(0o640, gid=7), stat_of(0o660, uid=os.geteuid(), gid=7), True, False),
        (stat_of(0o660, gid=8), stat_of(0o660, uid=os.geteuid(), gid=7), True, False),
    ],
)
def test_only_files_that_the_writers_of_a_record_may_open_are_mapped(
    file: os.stat_result, writers: os.stat_result, writes: bool, granted: bool
) -> None:
    assert window._granted(file, writers, writes) is granted


def test_a_window_whose_lock_cannot_be_had_leaves_nothing_open(
    attached: SimulatedWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    with monkeypatch.context() as patch:
        fail_at(patch, fcntl, "flock", {1}, errno.ENOLCK)
        with pytest.raises(OSError, match="No locks available"):
            attached.after_fork()
    assert open_files() == before
