# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Free memory in blocks for huge pages."""

from __future__ import annotations

import pytest

from mshare.host import fragmentation
from mshare.units import MIB

DMA = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      2 \n"
FULL = "Node 1, zone   Normal   9999   9999   9999   9999   9999   9999   9999   9999   9999      0      0 \n"


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("", None), (DMA, 10 * MIB), (FULL, 0), (DMA + FULL + DMA, 20 * MIB)]
)
def test_blocks_of_two_mib_and_larger(text, size_bytes):
    assert fragmentation.free_huge_bytes(text) == size_bytes


def test_this_host():
    assert (fragmentation.free_huge_bytes() or 0) >= 0
