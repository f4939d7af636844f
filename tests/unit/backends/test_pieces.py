# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backends have windows of pieces."""

from __future__ import annotations

import os
from pathlib import Path

from mshare.backends.kernel import KernelRegionFile
from mshare.backends.pieces import Piece
from mshare.kernel.generations import generation


def test_a_kernel_maps_the_whole_window_by_itself(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "sga", os.O_RDWR | os.O_CREAT)
    file = KernelRegionFile("sga", fd, generation("2025-08"))
    try:
        assert file.pieces() is None
    finally:
        file.close()


def test_a_piece_is_refused_only_where_that_is_said() -> None:
    assert Piece(1, 0, 4096, 3, 0, fd=None).refused == 0
