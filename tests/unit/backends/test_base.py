# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every backend's files do the same way."""

from __future__ import annotations

import os

import pytest

from mshare.backends.base import Backend, RegionFile, Window
from mshare.backends.connect import connect
from mshare.backends.kernel import KernelRegionFile
from mshare.kernel.generations import GENERATIONS


def test_a_file_is_closed_once(tmp_path):
    fd = os.open(tmp_path / "region", os.O_RDWR | os.O_CREAT)
    file = KernelRegionFile("region", fd, GENERATIONS["2025-08"])
    file.set_access(0o640)
    assert os.fstat(fd).st_mode & 0o777 == 0o640
    assert file.mappings() is None, "a kernel does not list them"
    file.close()
    file.close()
    assert file.fd == -1


def test_the_simulated_backend_is_one(here):
    backend = connect("simulated", str(here.root))
    assert isinstance(backend, Backend)
    assert backend.path("sga") == str(here.root / "sga")
    file = backend.open("sga", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        assert isinstance(file, RegionFile)
        file.set_size(backend.alignment_bytes)
        window = file.attach(backend.alignment_bytes)
        assert isinstance(window, Window)
        assert window.size_bytes == backend.alignment_bytes
        window.detach()
        window.detach()
    finally:
        file.close()


@pytest.mark.parametrize("seam", [Backend, RegionFile, Window])
def test_nothing_answers_that_no_backend_has_filled_in(seam):
    with pytest.raises(TypeError, match="abstract"):
        seam()
