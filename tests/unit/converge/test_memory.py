# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host cannot hold is refused, with what there is and what is asked for."""

from __future__ import annotations

import pytest

from mshare.converge import memory
from mshare.errors import InvalidRequest, MshareError
from mshare.units import GIB, MIB


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """8 GiB of RAM, 4 GiB of them available."""
    meminfo = {"MemTotal": 8 * GIB, "MemAvailable": 4 * GIB}
    monkeypatch.setattr(memory.procfs, "meminfo_bytes", lambda: meminfo)


def test_what_fits_is_accepted():
    memory.check(8 * GIB)
    memory.check(4 * GIB, prefault=True)
    memory.check(300 * GIB, overcommit=True)


def test_more_than_the_ram_needs_consent():
    with pytest.raises(InvalidRequest, match=r"9 GiB is more than this host's 8 GiB of RAM.*--overcommit"):
        memory.check(9 * GIB)


def test_prefaulting_needs_free_memory_whatever_was_consented_to():
    with pytest.raises(MshareError, match=r"prefaulting 5 GiB needs that much free memory.* 4 GiB available"):
        memory.check(5 * GIB, overcommit=True, prefault=True)


def test_regions_that_fit_one_by_one_and_not_together():
    memory.check_together({None: {"a": 3 * GIB}})
    with pytest.raises(MshareError, match="prefaulting regions a, b needs 6 GiB of free memory in total"):
        memory.check_together({None: {"a": 3 * GIB, "b": 3 * GIB}})


def test_the_room_of_each_root_counts_by_itself(monkeypatch):
    monkeypatch.setattr(memory.roots, "free_bytes", lambda root: 100 * MIB if root == "/small" else None)
    memory.check_together({"/small": {"a": 60 * MIB}, "/large": {"b": GIB}})
    with pytest.raises(MshareError, match="regions a, c needs 120 MiB in total, but the tmpfs at /small"):
        memory.check_together({"/small": {"a": 60 * MIB, "c": 60 * MIB}})
    with pytest.raises(MshareError, match="region a needs 101 MiB and the tmpfs at /small has 100 MiB left"):
        memory.check_room("a", 101 * MIB, "/small")


def test_a_root_without_a_limit_has_room(tmp_path):
    assert memory.roots.free_bytes(str(tmp_path)) is None
    memory.check_room("a", 300 * GIB, str(tmp_path))
