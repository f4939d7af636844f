# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of a region, as files and options give it, and the units that are made of it."""

from __future__ import annotations

import pytest

from mshare.errors import InvalidRequest
from mshare.region import units
from mshare.region.spec import RegionSpec, mapping_from_dict
from mshare.services import systemd
from mshare.units import GIB, MIB

BOTH = [{"path": "/data/a", "size": "3MiB"}, {"size": "1GiB"}]


def test_a_size_is_one_mapping_and_comes_back_as_a_size():
    made = RegionSpec.from_dict({"name": "sga", "size": "1GiB", "mode": "0660"})
    assert (made.mapped_bytes, made.mode) == (GIB, 0o660)
    assert made.to_dict()["size"] == GIB
    assert RegionSpec.from_dict(made.to_dict()) == made


def test_mappings_lie_behind_one_another():
    made = RegionSpec.from_dict({"name": "sga", "mappings": BOTH})
    assert [(mapping.kind, mapping.offset) for mapping in made.mappings] == [
        ("file", 0),
        ("anonymous", 4 * MIB),
    ]
    assert RegionSpec.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"kind": "file", "size": "1MiB"}, "give a path for a file, and only for a file"),
        ({"path": "data", "size": "1MiB"}, "'data' is not an absolute path"),
        ({"path": "/data"}, "mapping needs a size"),
        ({"size": "1MiB", "protection": "w"}, "'w' is unknown; write r or rw"),
        ({"size": "1MiB", "sizs": 1}, "unknown key 'sizs'; did you mean size"),
    ],
)
def test_a_mapping_that_makes_no_sense(entry, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        mapping_from_dict(entry)


def test_what_has_to_wait_for_the_region_is_in_its_unit(monkeypatch, tmp_path):
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(tmp_path))
    made = RegionSpec.from_dict(
        {"name": "sga", "size": "1GiB", "memory_max": "2GiB", "before": ["postgresql.service"]}
    )
    texts = units.region_files(made)
    assert any(f"MemoryMax={2 * GIB}\n" in text for text in texts.values())
    assert any("Before=postgresql.service\n" in text for text in texts.values())
