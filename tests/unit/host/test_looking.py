# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at processes of this host: their mappings, and the page tables of each."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from mshare.host import huge_pages, limits, pagemap, processes, procmap, segments
from mshare.host.limits import Host
from mshare.units import GIB, MIB

PAGES = 64


@pytest.fixture
def mapped(tmp_path):
    """A file of which this process has mapped and touched 64 MiB, a page in every MiB."""
    path = tmp_path / "segment"
    with path.open("wb") as file:
        file.truncate(PAGES * MIB)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), PAGES * MIB) as memory:
        for page in range(PAGES):
            memory[page * MIB] = 1
        yield path


def own() -> processes.Process:
    (process,) = (found for found in processes.read_all().processes if found.pid == os.getpid())
    return process


def test_this_process_is_among_those_that_are_seen():
    process = own()
    assert process.parent == os.getppid()
    assert process.uid == os.getuid()
    assert process.vm_pte_bytes > 0
    assert os.path.samefile(process.executable, os.readlink("/proc/self/exe"))
    assert process.arguments()[0]


def test_a_process_that_is_gone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with pytest.raises((processes.Vanished, FileNotFoundError, ProcessLookupError)):
        processes.read(f"/proc/{ended.pid}/status")


@pytest.mark.parametrize("querying", [True, False])
def test_a_mapping_is_found_by_both_ways_of_reading(mapped, querying):
    found = segments.Reader(querying).shared(own())
    inode = mapped.stat().st_ino
    (mapping,) = (entry for entry in found if entry.identity[1] == inode)
    assert mapping.end - mapping.start == PAGES * MIB
    assert segments.aligned_1gib(mapping) == (mapping.start % GIB == 0)


def test_the_tables_of_a_mapping_are_counted(mapped):
    inode = mapped.stat().st_ino
    (mapping,) = (entry for entry in segments.Reader().shared(own()) if entry.identity[1] == inode)
    with pagemap.Pagemap(os.getpid()) as opened:
        tables = pagemap.tables(opened, [(mapping, 4096)])[mapping.identity]
    # A leaf for each 2 MiB that no huge page maps, one more where it does not begin there; and a few above.
    leaves = PAGES // 2 - tables.huge_bytes // (2 * MIB)
    assert leaves * 4096 <= tables.bytes <= (leaves + 1 + 4) * 4096


def test_a_device_as_maps_writes_it():
    assert procmap.device(0x1 << 32 | 0xFE) == b"fe:01"


def test_pools_of_huge_pages(tmp_path):
    folder = tmp_path / "sys/kernel/mm/hugepages/hugepages-2048kB"
    folder.mkdir(parents=True)
    for name, number in {"nr": 10, "free": 6, "resv": 2, "surplus": 1, "nr_overcommit": 4}.items():
        (folder / f"{name}_hugepages").write_text(f"{number}\n")
    pool = huge_pages.pool(2 * MIB, str(tmp_path))
    assert (pool.total, pool.free, pool.reserved, pool.available) == (10, 6, 2, 6 - 2 + 4 - 1)
    assert huge_pages.sizes_bytes(str(tmp_path)) == [2 * MIB]
    assert huge_pages.pool(GIB, str(tmp_path)) is None


def test_a_limit_of_the_address_space(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    path = tmp_path / "proc/self/limits"
    path.write_text("Max address space         1073741824           unlimited            bytes\n")
    assert Host(str(tmp_path)).address_space_bytes() == GIB
    path.write_text("Max address space         unlimited            unlimited            bytes\n")
    assert Host(str(tmp_path)).address_space_bytes() is None


def test_limits_of_the_cgroups_above_count_too(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("30 28 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    for folder, text in (("a", "1073741824"), ("a/b", "max")):
        (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup" / folder / "memory.max").write_text(f"{text}\n")
    found = Host(str(tmp_path)).cgroup_limits("memory", "memory.limit_in_bytes", "memory.max")
    assert found == [limits.CgroupLimit("/sys/fs/cgroup/a/memory.max", GIB)]


def test_what_may_be_shared_is_what_is_neither_written_alone_nor_run():
    """A process with 8 MiB more of shared memory has 8 MiB more of it; memory of its own does not count."""

    def shared_kib() -> int:
        return own().other_kib()

    before = shared_kib()
    with mmap.mmap(-1, 8 * MIB):
        assert shared_kib() - before == 8 * 1024
    with mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        assert shared_kib() == before
