# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written down about a host before it is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.postgresql.spec import ClusterSpec
from mshare.record import Malformed
from mshare.remedy import recorded as written_down
from mshare.remedy.recorded import Entry, Recorded
from mshare.units import MIB
from rig.world import World

ENTRY = Entry("15", "main", "/var/lib/postgresql/15/main", "native", "native", None, None)
EARLIER = {
    "pages": "thp",
    "library": "/lib.so",
    "threshold_bytes": MIB,
    "require": False,
    "start_seconds": 600,
}


def test_it_comes_back_and_goes(here: World) -> None:
    assert written_down.load() == Recorded()
    wanted = Recorded(pool=True).with_entry(ENTRY)
    written_down.save(wanted)
    assert written_down.load() == wanted
    assert os.stat(written_down.file_path()).st_mode & 0o777 == 0o600
    written_down.save(wanted.without(ENTRY))
    assert written_down.load() == Recorded(pool=True)
    written_down.save(Recorded())
    assert not here.config.exists()


def test_an_entry_replaces_that_of_the_same_cluster() -> None:
    other = Entry("15", "main", "/elsewhere", "thp", "thp", None, None)
    assert Recorded().with_entry(ENTRY).with_entry(other).entries == (other,)


def test_a_cluster_is_found_by_its_data_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    entry = Entry("15", "main", str(tmp_path), "thp", "thp", None, None)
    assert Recorded(entries=(entry,)).of(str(tmp_path / "link")) == entry
    assert Recorded(entries=(entry,)).of("/elsewhere") is None


def test_what_a_cluster_was_set_up_with_before() -> None:
    entry = Entry("15", "main", "/data", "native", "native", None, {**EARLIER, "group_added": None})
    assert entry.spec_before == ClusterSpec("thp", library="/lib.so", threshold_bytes=MIB, start_seconds=600)
    assert ENTRY.spec_before is None


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"schema_version": 9}', Conflict, "has the schema_version 9 of another release"),
        ('{"schema_version": 1, "pool": 7, "entries": []}', Malformed, "has 7 for pool"),
        ("{", Malformed, "is not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read(here: World, text: str, error: type[Exception], words: str) -> None:
    here.config.mkdir(parents=True)
    Path(written_down.file_path()).write_text(text)
    with pytest.raises(error, match=words):
        written_down.load()
