# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools that grow in steps, the checks before that, and the settings of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mshare.errors import MshareError, Unavailable
from mshare.host.limits import Host
from mshare.huge_pages.kernel import TRANSPARENT, Kernel
from mshare.huge_pages.pool import Change, put_back, resize
from mshare.huge_pages.preflight import CHECKS
from mshare.units import GIB, MIB
from rig.pools import FakeKernel, Pools


def test_progress_is_told_in_steps_and_memory_is_given_back_first(tmp_path: Path) -> None:
    pools = Pools(tmp_path / "host")
    pools.set(GIB, nr=2)
    kernel = FakeKernel(pools.host, files=pools)
    told: list[tuple[int, int]] = []
    grown = Change(2 * MIB, None, 0, 2000)
    assert resize(kernel, [grown, Change(GIB, None, 2, 0)], lambda *figures: told.append(figures)) is None
    assert kernel.log[0] == "1024MiB=0"
    assert told[-1] == (2000 * 2 * MIB, 2000 * 2 * MIB)
    assert len(told) == 20
    assert [done for done, __ in told] == sorted(done for done, __ in told)


def test_a_kernel_that_grants_nothing_is_asked_a_few_times_only(tmp_path: Path) -> None:
    pools = Pools(tmp_path / "host")
    kernel = FakeKernel(pools.host, files=pools, limits={2 * MIB: 0})
    short = resize(kernel, [Change(2 * MIB, None, 0, 64)])
    assert short is not None
    assert (short.granted, short.missing) == (0, 64)
    assert kernel.log == ["2MiB=64", "compact"] * 3


def test_a_kernel_that_grants_a_page_at_a_time_is_not_asked_for_ever(tmp_path: Path) -> None:
    pools = Pools(tmp_path / "host")
    kernel = FakeKernel(pools.host, files=pools, limits={2 * MIB: 1}, compaction_gains=1)
    short = resize(kernel, [Change(2 * MIB, None, 0, 1000)])
    assert short is not None
    assert kernel.log.count("compact") == 12


def test_what_is_used_by_now_is_not_taken_when_a_pool_goes_back(tmp_path: Path) -> None:
    pools = Pools(tmp_path / "host")
    kernel = FakeKernel(pools.host, files=pools)
    change = Change(2 * MIB, None, 5, 50)
    resize(kernel, [change])
    pools.set(2 * MIB, nr=50, used=20)
    put_back(kernel, [change])
    assert (pools.count("nr"), pools.count("surplus")) == (20, 0)


def test_every_check_has_a_sentence_of_its_own() -> None:
    # Each is tried in test_converge.py, with its figures.
    assert len(CHECKS) == len({check.__name__ for check in CHECKS}) == 5


def test_the_chosen_word_of_a_setting(tmp_path: Path) -> None:
    kernel = Kernel(Pools(tmp_path / "host").host)
    assert kernel.setting(TRANSPARENT) == "madvise"
    assert kernel.setting("/proc/sys/vm/hugetlb_shm_group") == "0"
    assert kernel.setting("/proc/sys/vm/nothing") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="what root may not write: root only")
def test_where_sys_is_read_only_the_container_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools(tmp_path / "host")
    pools.write("run/.containerenv", "")
    kernel = Kernel(pools.host)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Unavailable) as refused:
        kernel.require_writable(TRANSPARENT)
    assert str(refused.value) == (
        f"{TRANSPARENT} cannot be written: this is a container (podman), and huge pages belong to the machine"
        " as a whole; run this on the machine itself"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match=r"root only, and this is uid 1000; run as root \(become: true\)"):
        kernel.require_writable(TRANSPARENT)


def test_a_size_without_a_pool_is_named() -> None:
    with pytest.raises(Unavailable, match=r"hugepages-16kB/nr_hugepages is missing: this kernel has no such"):
        Kernel(Host("/nowhere")).pool(16 << 10, None)


def test_what_the_kernel_refuses_is_a_sentence_of_its_own(tmp_path: Path) -> None:
    pools = Pools(tmp_path / "host")
    place = pools.path("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
    place.unlink()
    # As EINVAL of a kernel that cannot make such pages while it runs, any error of the write.
    place.mkdir()
    with pytest.raises(
        MshareError, match=r"the kernel refuses 4 in /sys/kernel/mm/hugepages/hugepages-1048576kB"
    ):
        Kernel(pools.host).set_pages(GIB, None, 4)
