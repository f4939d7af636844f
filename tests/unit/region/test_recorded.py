# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is mapped in a region is written down anew by whoever changes it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping
from mshare.errors import Conflict
from mshare.region import recorded
from mshare.region.recorded import Change
from mshare.region.region import Region
from mshare.region.status import OWNER, starting
from mshare.services import status_file
from mshare.units import GIB, KIB, MIB

WHOLE = Mapping(0, 64 * MIB)
FILE = Mapping(GIB, 8 * MIB, "file", path="/data/a", object_offset=MIB)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (Change.to(Mapping(2 * GIB, MIB)), [WHOLE, FILE, Mapping(2 * GIB, MIB)]),
        (Change.to(Mapping(100 * MIB, 5000)), [WHOLE, Mapping(100 * MIB, 8 * KIB), FILE]),
        (Change(0, 64 * MIB), [FILE]),
        (Change(MIB, MIB), [Mapping(0, MIB), Mapping(2 * MIB, 62 * MIB), FILE]),
        (
            Change(GIB + 2 * MIB, MIB),
            [
                WHOLE,
                replace(FILE, size_bytes=2 * MIB),
                replace(FILE, offset=GIB + 3 * MIB, size_bytes=5 * MIB, object_offset=4 * MIB),
            ],
        ),
        (Change.to(replace(FILE, offset=0)), [replace(FILE, offset=0), Mapping(8 * MIB, 56 * MIB), FILE]),
        (Change(0, 2 * GIB), []),
        (
            Change(63 * MIB, GIB - 61 * MIB, prot=1),
            [
                Mapping(0, 63 * MIB),
                Mapping(63 * MIB, MIB, prot=1),
                replace(FILE, size_bytes=2 * MIB, prot=1),
                replace(FILE, offset=GIB + 2 * MIB, size_bytes=6 * MIB, object_offset=3 * MIB),
            ],
        ),
    ],
)
def test_what_is_mapped_after_a_change(change, left):
    assert change.apply([WHOLE, FILE]) == left


def status(here):
    return status_file.read(str(here.root), "sga", OWNER)


def opened(here) -> Region:
    return Region.open("sga", backend=connect("simulated", str(here.root)))


def test_a_change_is_in_the_owner_s_status_file(here):
    with here.owned():
        before = status(here)
        assert before.pattern is not None
        with opened(here) as region:
            assert region.map(Mapping(GIB, MIB)) is None
            assert status(here).pattern == before.pattern
            assert region.unmap(0, "1MiB") is None
        after = status(here)
        assert [(each.offset, each.size) for each in after.mappings] == [(MIB, 63 * MIB), (GIB, MIB)]
        assert after.mapped_bytes == 64 * MIB
        assert after.pattern is None, "its first page is gone"
        assert (after.pid, after.spec) == (before.pid, before.spec)
        assert not [name for name in here.files() if "lock" in name and "mappings" in name]


def test_an_owner_that_still_fills_its_region_is_waited_for(here):
    with here.owned():
        path = status_file.file(str(here.root), "sga", OWNER)
        status_file.write(path, replace(status(here), state="prefaulting"))
        with opened(here) as region:
            with pytest.raises(Conflict, match=r"cannot be changed yet: its owner \d+ is prefaulting; wait"):
                region.unmap(0, "1MiB")
            assert region.stat().mapped_bytes == 64 * MIB, "nothing was changed"


def test_who_may_not_write_it_down_is_told(here, monkeypatch):
    def refuse(path, text, *rest, **options):
        raise PermissionError(13, "Permission denied", path)

    with here.owned(), opened(here) as region:
        monkeypatch.setattr(recorded.status_file, "write", refuse)
        reason = region.unmap(0, "1MiB")
        assert "Permission denied" in reason
        assert status(here).mapped_bytes == 64 * MIB
        assert region.stat().mapped_bytes == 63 * MIB, "the change itself is made"


def test_an_owner_s_own_changes_and_regions_without_a_status_file_are_left_alone(here):
    with opened_own(here) as region:
        assert region.map(Mapping(GIB, MIB)) is None
        assert status(here) is None
        status_file.make_directory(str(here.root))
        path = status_file.file(str(here.root), "sga", OWNER)
        status_file.write(path, starting("sga", str(here.root), {}))
        assert region.unmap(GIB, "1MiB") is None
        assert status(here).mappings is None
        assert status(here).pid == os.getpid()


def opened_own(here) -> Region:
    return Region.create("sga", "64MiB", backend=connect("simulated", str(here.root)))
