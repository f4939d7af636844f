# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls of the mailing list, with the errno of the system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from conformance.actors import crowd
from mshare.backends import choose
from mshare.region import mailing_list
from mshare.region.region import list_regions
from mshare.units import MIB

SIZE = 4 * MIB
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture(autouse=True)
def _default_root(here, monkeypatch):
    """These calls know no root but the host's own."""
    monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
    monkeypatch.setattr(choose.paths, "simulated_root", lambda: str(here.root))


def in_a_process(act: Callable[[], None]) -> None:
    """What is attached stays so as long as the process."""
    assert crowd(1, lambda _number: act()) == [0]


def test_a_region_is_created_attached_and_unlinked():
    def act() -> None:
        first = mailing_list.mshare("list", 0, SIZE, NEW)
        assert list_regions() == ["list"]
        assert mailing_list.mshare("list", 0, SIZE) not in (0, first), "each call has a window of its own"
        mailing_list.mshare_unlink("list")
        assert list_regions() == []

    in_a_process(act)


def test_another_length_is_einval():
    def act() -> None:
        mailing_list.mshare("list", 0, SIZE, NEW)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            mailing_list.mshare("list", 0, SIZE + 4096)
        assert caught.value.errno == errno.EINVAL

    in_a_process(act)


def test_creating_opens_one_that_is_there_unless_it_must_be_new():
    def act() -> None:
        mailing_list.mshare("list", 0, SIZE, NEW)
        assert mailing_list.mshare("list", 0, SIZE, os.O_RDWR | os.O_CREAT)
        with pytest.raises(FileExistsError):
            mailing_list.mshare("list", 0, SIZE, NEW)

    in_a_process(act)


def test_mcreate_is_open():
    file = mailing_list.mcreate("made", mode=0o640)
    try:
        assert os.fstat(file.fd).st_mode & 0o777 == 0o640
        assert file.geometry().window_bytes == 0
    finally:
        file.close()
    with pytest.raises(FileExistsError):
        mailing_list.mcreate("made")
