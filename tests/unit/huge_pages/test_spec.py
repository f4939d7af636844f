# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be asked of huge pages, and the sentence for what may not."""

from __future__ import annotations

from typing import Any

import pytest

from mshare.errors import InvalidRequest
from mshare.huge_pages.spec import MemlockRequest, PoolRequest, make, parse_memlock, parse_want
from mshare.units import GIB, MIB


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"wanted": "auto"}, PoolRequest(2 * MIB, None)),
        ({"wanted": 512}, PoolRequest(2 * MIB, 512)),
        ({"wanted": "512", "node": 1}, PoolRequest(2 * MIB, 512, 1)),
        ({"wanted": "24GiB"}, PoolRequest(2 * MIB, 12 * 1024)),
        ({"size": "1GiB", "wanted": "1.5GiB"}, PoolRequest(GIB, 2)),
        ({"size": "2MiB", "wanted": "3 MiB"}, PoolRequest(2 * MIB, 2)),
        ({"wanted": 0}, PoolRequest(2 * MIB, 0)),
        ({}, PoolRequest(2 * MIB, None)),
    ],
)
def test_a_pool_is_a_number_a_size_or_auto(entry: dict[str, Any], expected: PoolRequest) -> None:
    assert make([entry]).pools == (expected,)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pages": [{"wanted": "plenty"}]}, "wanted 'plenty' is neither a number of pages nor a size"),
        ({"pages": [{"wanted": "-1"}]}, "wanted '-1' is neither a number of pages nor a size"),
        ({"pages": [{"wanted": -1}]}, "wanted -1 is not a number of huge pages that a host can have"),
        ({"pages": [{"wanted": True}]}, "wanted True is neither a number of pages nor a size"),
        ({"pages": [{"wanted": "12 horses"}]}, "write it like 512 or 24GiB, or auto"),
        ({"pages": [{"size": "3MiB"}]}, "'3MiB' is not a size of huge pages"),
        ({"pages": [{"size": "4KiB"}]}, "'4KiB' is not a size of huge pages"),
        ({"pages": [{"node": -1}]}, "node -1 is not the number of a NUMA node"),
        ({"pages": [{"wanted": 1}, {"wanted": 2}]}, "pool of 2 MiB pages is listed more than once"),
        (
            {"pages": [{"wanted": 1}, {"wanted": 2, "node": 0}]},
            "for the host as a whole and for single NUMA nodes",
        ),
        (
            {"spare": "lots"},
            "spare 'lots' is neither a number of pages nor a size; write it like 512 or 24GiB",
        ),
        ({"share_of_ram_max": 0}, "share_of_ram_max 0 is not a share"),
        ({"share_of_ram_max": 1.5}, "share_of_ram_max 1.5 is not a share"),
        ({"transparent": "sometimes"}, "write one of always, madvise, never"),
        ({"shm_group": "a b"}, "shm_group 'a b' is neither the name nor the number of a group"),
        ({"pages": [{"wanted": 1}], "live": False, "persist": False}, "live and persist are both false"),
        ({"memlock": [{}]}, "names a unit or a user"),
        ({"memlock": [{"user": "oracle", "limit": 134217728}]}, "has no unit: limits.conf counts in KiB"),
        ({"memlock": [{"unit": "a.service", "user": "a"}]}, "names a unit or a user"),
        ({"memlock": [{"unit": "../x"}]}, "'../x' is not a service"),
        ({"memlock": [{"user": "*"}]}, "'*' is not the name of a user"),
        ({"memlock": [{"user": "a\nroot"}]}, "is not the name of a user"),
        ({"memlock": [{"user": "a"}, {"user": "a"}]}, "memlock names user a more than once"),
    ],
)
def test_what_no_host_can_do_is_refused_in_one_sentence(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        make(**options)
    assert reason in str(refused.value)


def test_spare_is_a_number_of_pages_or_a_size_of_each_pool() -> None:
    assert make(spare=8).spare_of(2 * MIB) == 8
    assert make(spare="8").spare_of(GIB) == 8
    assert make(spare="65MiB").spare_of(2 * MIB) == 33
    assert make(spare="65MiB").spare_of(GIB) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", {"size": "2MiB", "node": None, "wanted": "auto"}),
        ("512", {"size": "2MiB", "node": None, "wanted": "512"}),
        ("1GiB=24GiB", {"size": "1GiB", "node": None, "wanted": "24GiB"}),
        ("2MiB@1=512", {"size": "2MiB", "node": 1, "wanted": "512"}),
    ],
)
def test_the_command_line_writes_a_pool_as_one_word(text: str, expected: dict[str, Any]) -> None:
    assert parse_want(text) == expected


@pytest.mark.parametrize("text", ["", "=", "2MiB@=5", "2MiB@x=5", "a=b=c"])
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--want"):
        parse_want(text)


def test_locked_memory_is_of_a_unit_or_a_user() -> None:
    entries = [parse_memlock("postgresql@15-main.service"), parse_memlock("oracle=64GiB")]
    assert make(memlock=entries).memlock == (
        MemlockRequest("postgresql@15-main.service", None, None),
        MemlockRequest(None, "oracle", 64 * GIB),
    )
