# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects inside a region: their normal form, and the two backends that place them."""

from __future__ import annotations

import os

import pytest

from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping, MappingEntry, protection, protection_name
from mshare.errors import InvalidRequest
from mshare.kernel import abi
from mshare.kernel.syscalls import NewMapping
from mshare.units import MIB


def test_the_normal_form():
    assert MappingEntry.of(Mapping(0, MIB)).to_fields() == {
        "kind": "anonymous",
        "offset": 0,
        "size": MIB,
        "protection": "rw",
    }
    file = Mapping(MIB, 2 * MIB, "file", abi.PROT_READ, "/data", 4096)
    entry = MappingEntry.of(file)
    assert (entry.path, entry.file_offset) == ("/data", 4096)
    assert entry.mapping() == file
    assert file.end == 3 * MIB


FILE = Mapping(4 * MIB, 4 * MIB, "file", path="/data", object_offset=MIB)


@pytest.mark.parametrize(
    ("offset", "end", "part", "rest"),
    [
        (0, 4 * MIB, None, [FILE]),
        (8 * MIB, 9 * MIB, None, [FILE]),
        (5 * MIB, 5 * MIB, None, [FILE]),
        (0, 16 * MIB, (4, 4, 1), []),
        (0, 5 * MIB, (4, 1, 1), [(5, 3, 2)]),
        (5 * MIB, 6 * MIB, (5, 1, 2), [(4, 1, 1), (6, 2, 3)]),
        (7 * MIB, 9 * MIB, (7, 1, 4), [(4, 3, 1)]),
    ],
)
def test_a_part_and_the_rest(offset, end, part, rest):
    def placed(mapping):
        return mapping.offset // MIB, mapping.size_bytes // MIB, mapping.object_offset // MIB

    inside = FILE.part(offset, end)
    assert (None if inside is None else placed(inside)) == part
    outside = FILE.without(offset, end) if offset < end else [FILE]
    assert [placed(each) for each in outside] == [placed(each) if each is FILE else each for each in rest]


def test_protections():
    assert [protection_name(protection(text)) for text in ("r", "rw")] == ["r", "rw"]
    with pytest.raises(InvalidRequest, match="protection 'x' is unknown; write r or rw"):
        protection("x")


def test_the_simulated_backend_lists_what_is_mapped(here):
    backend = connect("simulated", str(here.root))
    file = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        file.set_size(backend.alignment_bytes)
        flags = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
        file.create_mapping(NewMapping(0, MIB, abi.PROT_READ | abi.PROT_WRITE, flags))
        assert file.mappings() == [Mapping(0, MIB)]
        assert backend.names() == ["sga"]
        file.unmap(0, MIB)
        assert file.mappings() == []
    finally:
        file.close()
        backend.unlink("sga")
    assert backend.names() == []
