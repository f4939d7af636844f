# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each posted interface: the requests it makes on a file descriptor."""

from __future__ import annotations

import errno
import os

import pytest

from mshare.kernel import abi, syscalls
from mshare.kernel.calls import CALLS
from mshare.kernel.calls.base import Calls, Geometry
from mshare.kernel.calls.v2022_06 import V2022_06
from mshare.kernel.calls.v2024_09 import V2024_09
from mshare.kernel.calls.v2025_01 import V2025_01
from mshare.kernel.calls.v2025_04 import V2025_04
from mshare.kernel.calls.v2025_08 import V2025_08
from mshare.kernel.generations import GENERATIONS
from mshare.kernel.syscalls import NewMapping
from mshare.units import GIB, MIB

CLASSES: dict[str, type[Calls]] = {
    "2022-06": V2022_06,
    "2024-09": V2024_09,
    "2025-01": V2025_01,
    "2025-04": V2025_04,
    "2025-08": V2025_08,
}


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "region", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_each_is_known_by_its_id():
    assert {identifier: type(calls) for identifier, calls in CALLS.items()} == CLASSES
    assert {identifier: calls.generation for identifier, calls in CALLS.items()} == GENERATIONS


BY_FTRUNCATE = [name for name, known in GENERATIONS.items() if known.features.size_set_by == "ftruncate"]


@pytest.mark.parametrize("identifier", BY_FTRUNCATE)
def test_a_size_by_ftruncate(identifier, fd):
    speaks = CALLS[identifier]
    speaks.set_size(fd, 4 * MIB, None)
    assert os.fstat(fd).st_size == 4 * MIB
    assert speaks.geometry(fd) == Geometry(None, 4 * MIB)


def test_a_size_by_request_is_refused_by_a_file_that_knows_none(fd):
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        CALLS["2024-09"].set_size(fd, 4 * MIB, 512 * GIB)


@pytest.mark.parametrize("identifier", CLASSES)
def test_what_it_does_not_have_is_refused_as_the_kernel_would(identifier, fd):
    speaks = CALLS[identifier]
    if not speaks.generation.features.explicit_mappings:
        with pytest.raises(OSError, match=f"in generation {identifier}") as caught:
            speaks.create_mapping(fd, NewMapping(0, MIB, abi.PROT_READ, 0))
        assert caught.value.errno == errno.EOPNOTSUPP
    if not speaks.generation.features.unmap:
        with pytest.raises(OSError, match=f"in generation {identifier}"):
            speaks.unmap(fd, 0, MIB)
    for call in (speaks.protect, speaks.advise):
        with pytest.raises(OSError, match=f"in generation {identifier}") as caught:
            call(fd, 0, MIB, 1)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_requests_by_offset(monkeypatch):
    asked = []
    monkeypatch.setattr(syscalls, "create_mapping", lambda *words: asked.append(words))
    monkeypatch.setattr(syscalls, "unmap", lambda *words: asked.append(words))
    speaks = CALLS["2025-04"]
    new = NewMapping(2 * MIB, MIB, abi.PROT_READ, abi.MAP_SHARED, 9, 4096)
    speaks.create_mapping(7, new)
    speaks.unmap(7, 2 * MIB, MIB)
    assert asked == [
        (7, abi.CREATE_MAPPING_BY_OFFSET, 2 * MIB, new),
        (7, abi.UNMAP_BY_OFFSET, 2 * MIB, MIB),
    ]
