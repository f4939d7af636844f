# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new region will be, on the generations that differ in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mshare.backends.mapping import Mapping
from mshare.errors import InvalidRequest
from mshare.kernel.abi import X86_64_ALIGNMENT_BYTES as ALIGNMENT
from mshare.kernel.generations import GENERATIONS
from mshare.region.create import FIXED_ADDRESS, blueprint
from mshare.units import GIB, MIB


def planned(size=None, mappings=(), window=None, address=None, generation="2025-08", name="sga"):
    backend = SimpleNamespace(generation=GENERATIONS[generation], alignment_bytes=ALIGNMENT)
    return blueprint(name, backend, size, mappings, window, address)


def test_a_size_is_anonymous_memory_in_whole_pages():
    made = planned(size=MIB + 1)
    assert made.mappings == (Mapping(0, MIB + 4096),)
    assert (made.window_bytes, made.address) == (ALIGNMENT, None)


def test_a_window_grows_with_the_size():
    assert planned(size="600GiB").window_bytes == 2 * ALIGNMENT
    assert planned(window="1TiB").window_bytes == 2 * ALIGNMENT


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_address(generation):
    any_address = GENERATIONS[generation].features.any_address
    assert planned(size=GIB, generation=generation).address == (None if any_address else FIXED_ADDRESS)
    assert planned(size=GIB, address=4 * ALIGNMENT, generation=generation).address == 4 * ALIGNMENT


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "region sga needs a size, mappings or a window, like size 300GiB"),
        ({"size": 0}, "must be greater than zero"),
        ({"size": GIB, "name": "../sga"}, "'../sga'"),
        ({"size": GIB, "address": 4097}, "address 0x1001 cannot hold a region"),
    ],
)
def test_what_no_region_can_have(asked, words):
    with pytest.raises(InvalidRequest) as caught:
        planned(**asked)
    assert words in str(caught.value)
