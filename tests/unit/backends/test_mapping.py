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
