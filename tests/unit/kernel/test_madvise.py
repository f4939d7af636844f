# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Huge pages for a range of a process's memory, and how the kernel refuses them."""

from __future__ import annotations

import errno
import os

import pytest

from mshare.kernel import madvise
from mshare.kernel.abi import HUGE_PAGE_BYTES
from rig.faults import open_files


@pytest.fixture
def own_pidfd():
    fd = os.pidfd_open(os.getpid())
    yield fd
    os.close(fd)


def test_a_descriptor_that_is_no_process():
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        madvise.collapse(-1, 0, HUGE_PAGE_BYTES)
    assert caught.value.errno in (errno.EBADF, errno.ENOSYS)


@pytest.mark.skipif(not madvise.can_collapse(), reason="this kernel has no MADV_COLLAPSE")
def test_a_range_that_is_not_mapped(own_pidfd):
    with pytest.raises(OSError, match=r"memory|argument|address") as caught:
        madvise.collapse(own_pidfd, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES)
    assert caught.value.errno in (errno.ENOMEM, errno.EINVAL, errno.EFAULT)


def test_a_look_leaves_nothing_open():
    before = len(open_files())
    assert madvise.can_collapse() in (True, False)
    assert len(open_files()) == before


@pytest.mark.parametrize(
    ("code", "known"),
    [
        (errno.EINVAL, False),
        (errno.ENOSYS, False),
        (errno.EPERM, False),
        (errno.ENOMEM, True),
        (errno.EAGAIN, True),
    ],
)
def test_what_a_refusal_tells_of_the_kernel(monkeypatch, code, known):
    def refuse(*__: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(madvise, "collapse", refuse)
    assert madvise.can_collapse() is known
