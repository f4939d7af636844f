# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which generations there are, and what each can do."""

from __future__ import annotations

import errno

import pytest

from mshare.errors import InvalidRequest
from mshare.kernel.generations import (
    ADVICE,
    DESCRIBED,
    GENERATIONS,
    NEWEST,
    PLAYED,
    SYSCALL_GENERATIONS,
    generation,
    not_supported,
)


def test_they_are_in_order_of_time():
    assert list(GENERATIONS) == sorted(GENERATIONS)
    assert list(GENERATIONS)[-1] == NEWEST
    assert [generation(identifier) for identifier in PLAYED] == list(PLAYED.values())


def test_what_is_described_is_not_among_what_is_posted():
    """The plan, the probe and the kernel's calls go by the posted ones."""
    assert not GENERATIONS.keys() & DESCRIBED.keys()
    assert {known.status for known in GENERATIONS.values()} == {"posted"}
    assert {known.status for known in DESCRIBED.values()} == {"described, not posted"}


def test_what_the_next_interface_can_do():
    features = DESCRIBED["2026-05"].features
    assert (features.nameless, features.partial_attach, features.protect) == (True, True, True)
    assert features.advice == tuple(ADVICE)
    # No call that unmaps was described.
    assert not features.unmap
    assert features.owner_bound
    for older in GENERATIONS.values():
        assert not older.features.nameless | older.features.partial_attach | older.features.protect
        assert older.features.advice == ()


@pytest.mark.parametrize(
    ("feature", "since"),
    [
        ("explicit_mappings", "2024-09"),
        ("unmap", "2025-01"),
        ("any_address", "2025-04"),
        ("owner_bound", "2025-08"),
    ],
)
def test_what_came_with_a_generation_stayed(feature, since):
    having = [known.id for known in GENERATIONS.values() if getattr(known.features, feature)]
    assert having == [identifier for identifier in GENERATIONS if identifier >= since]


def test_what_sets_the_size_and_what_can_be_mapped():
    assert {known.id: known.features.size_set_by for known in GENERATIONS.values()} == {
        "2022-06": "mmap",
        "2024-09": "ioctl",
        "2025-01": "ioctl",
        "2025-04": "ftruncate",
        "2025-08": "ftruncate",
    }
    *older, newest = [known.features.mapping_kinds for known in GENERATIONS.values()]
    assert {*older} == {("anonymous",)}
    assert newest == ("anonymous", "hugetlb", "file")


def test_a_call_that_a_generation_does_not_have():
    error = not_supported("objects cannot be unmapped", generation("2024-09"))
    assert error.errno == errno.EOPNOTSUPP
    assert str(error).endswith("objects cannot be unmapped in generation 2024-09")


@pytest.mark.parametrize("identifier", SYSCALL_GENERATIONS)
def test_the_ones_that_were_system_calls_are_dangerous(identifier):
    with pytest.raises(InvalidRequest, match="calling them is dangerous"):
        generation(identifier)


def test_unknown():
    with pytest.raises(InvalidRequest, match="generation '2030-01' is unknown; use one of 2022-06"):
        generation("2030-01")
