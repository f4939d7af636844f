# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a simulated window consists of, for programs that do not read a region's record."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator

import pytest

from mshare.backends.base import RegionFile
from mshare.backends.connect import connect
from mshare.backends.simulated import pieces as simulated_pieces
from mshare.backends.simulated.pieces import SimulatedPieces
from mshare.kernel import abi
from mshare.region.region import Region
from mshare.units import GIB, MIB
from rig.world import World

READ_WRITE = abi.PROT_READ | abi.PROT_WRITE


@pytest.fixture
def file(here: World) -> Iterator[RegionFile]:
    with here.owned("sga", "--size", "64MiB", "--window", "512GiB"):
        opened = connect("simulated", str(here.root)).open("sga", os.O_RDONLY)
        try:
            yield opened
        finally:
            opened.close()


@pytest.fixture
def pieces(file: RegionFile) -> Iterator[SimulatedPieces]:
    opened = file.pieces()
    assert isinstance(opened, SimulatedPieces)
    try:
        yield opened
    finally:
        opened.close()
        opened.close()


def rings(pieces: SimulatedPieces) -> bool:
    return bool(select.select([pieces.bell], [], [], 0)[0])


def test_anonymous_memory_is_the_region_s_own(pieces: SimulatedPieces) -> None:
    (only,) = pieces.current() or ()
    assert (only.offset, only.size_bytes, only.prot, only.object_offset) == (0, 64 * MIB, READ_WRITE, 0)
    assert (only.fd, only.refused) == (None, 0)


def test_a_file_is_open_as_long_as_it_is_mapped(here: World, pieces: SimulatedPieces) -> None:
    path = here.directory / "object"
    path.write_bytes(b"o" * 8192)
    pieces.current()
    pieces.heard()
    assert not rings(pieces)
    with Region.open("sga", backend=connect("simulated", str(here.root))) as region:
        region.map_file(str(path), GIB)
        assert rings(pieces)
        pieces.heard()
        assert not rings(pieces)
        mapped = pieces.current() or []
        assert [(piece.offset, piece.prot) for piece in mapped[1:]] == [(GIB, abi.PROT_READ)]
        fd = mapped[1].fd
        assert fd is not None
        assert os.path.samestat(os.fstat(fd), path.stat())
        assert (pieces.current() or [])[1].fd == fd, "opened once"
        region.unmap(GIB, 8192)
        assert len(pieces.current() or []) == 1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_what_may_not_be_opened_is_a_hole(
    here: World, pieces: SimulatedPieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here.directory / "object"
    path.write_bytes(b"o" * 4096)
    with Region.open("sga", backend=connect("simulated", str(here.root))) as region:
        region.map_file(str(path), GIB)

        def refuse(*__: object) -> int:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(simulated_pieces, "open_object", refuse)
        refused = (pieces.current() or [])[1]
        assert (refused.fd, refused.refused) == (None, errno.EACCES)


def test_a_region_that_has_ended_has_none(here: World) -> None:
    with here.owned() as owner:
        opened = connect("simulated", str(here.root)).open("sga", os.O_RDONLY)
        pieces = opened.pieces()
        assert pieces is not None
        assert pieces.current()
        owner.kill()
        owner.wait()
        assert pieces.current() is None
        pieces.close()
        opened.close()


def test_a_damaged_record_changes_nothing(here: World, pieces: SimulatedPieces) -> None:
    before = pieces.current()
    (here.root / ".simulated" / "sga.json").write_text("{}\n")
    assert pieces.current() == before
