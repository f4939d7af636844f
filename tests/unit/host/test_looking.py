# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at processes of this host: their mappings, and the page tables of each."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize(
    ("page_bytes", "name"),
    [
        (64 << 10, "64KB"),
        (MIB, "1MB"),
        (2 * MIB, "2MB"),
        (512 * MIB, "512MB"),
        (GIB, "1GB"),
        (16 * GIB, "16GB"),
    ],
)
def test_sizes_as_the_controller_of_cgroups_names_them(page_bytes, name):
    assert huge_pages.controller_size(page_bytes) == name


@pytest.mark.parametrize(("has_memory", "nodes"), [("0,2-3", [0, 2, 3]), (None, [0, 1, 2, 3])])
def test_a_node_without_memory_has_no_pool(has_memory, nodes, tmp_path):
    """Since Linux 6.1 a node that has only processors shows these files all the same."""
    above = tmp_path / "sys/devices/system/node"
    for number in range(4):
        folder = above / f"node{number}/hugepages/hugepages-2048kB"
        folder.mkdir(parents=True)
        (folder / "nr_hugepages").write_text("0\n")
    if has_memory is not None:
        (above / "has_memory").write_text(f"{has_memory}\n")
    assert [pool.node for pool in huge_pages.pools(str(tmp_path))] == nodes


V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), ("memory.max", "memory.current", "")


@pytest.mark.parametrize(("limit", "use", "prefix"), [V1, V2])
def test_what_a_cgroup_can_still_take(limit, use, prefix, tmp_path):
    """Page cache of files is not counted, shared memory is: the kernel has it among neither kind of files."""
    file = limits.CgroupLimit(f"/sys/fs/cgroup/a/{limit}", 100 * MIB)
    folder = tmp_path / "sys/fs/cgroup/a"
    folder.mkdir(parents=True)
    assert Host(str(tmp_path)).cgroup_memory_left(file) is None
    (folder / use).write_text(f"{90 * MIB}\n")
    assert Host(str(tmp_path)).cgroup_memory_left(file) == 10 * MIB
    (folder / "memory.stat").write_text(
        f"shmem {70 * MIB}\n{prefix}active_file {5 * MIB}\n{prefix}inactive_file {4 * MIB}\n"
    )
    assert Host(str(tmp_path)).cgroup_memory_left(file) == 19 * MIB
    (folder / use).write_text(f"{120 * MIB}\n")
    assert Host(str(tmp_path)).cgroup_memory_left(file) == 0


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


STATUS = """Name:\tpostgres
PPid:\t1
VmPeak:\t 999999999 kB
VmSize:\t{size} kB
VmLck:\t       0 kB
VmRSS:\t  999999 kB
VmData:\t{data} kB
VmStk:\t     132 kB
VmExe:\t    7000 kB
VmLib:\t   50000 kB
VmPTE:\t  614400 kB
Threads:\t{threads}
"""


@pytest.mark.parametrize("size_kib", [60_000, 99_999_999, 314_572_800, 12_884_901_888])
def test_a_process_of_whatever_size(size_kib):
    """The kernel writes sizes eight digits wide, and wider from 96 GiB on."""
    status = STATUS.format(size=f"{size_kib:8}", data="     800", threads="12").encode()
    process = processes.Process(7, status, 0)
    assert process.other_kib() == size_kib - 800 - 132 - 7000 - 50000
    assert process.threads == 12
    only = processes.Process(7, status.replace(b"Threads:\t12", b"Threads:\t1"), 0)
    assert only.threads == 1


def test_pmd_tables_in_a_field_of_their_own():
    """Linux 4.0 to 4.14, as of Oracle's UEK5, SLES 12 and Amazon Linux 2: all of an SGA in huge pages."""
    whole = STATUS.format(size=f"{99_999_999:8}", data="     800", threads="1")
    parts = whole.replace(
        "VmPTE:\t  614400 kB", "VmPTE:\t     400 kB\nVmPMD:\t  614000 kB\nVmSwap:\t    9 kB"
    )
    old, new = (processes._process("7", status.encode()) for status in (parts, whole))
    assert old.vm_pte_bytes == new.vm_pte_bytes == 614400 * 1024
    assert old.other_kib() == new.other_kib()


@pytest.mark.skipif(os.geteuid() != 0, reason="supplementary groups: root only")
def test_a_member_of_thousands_of_groups():
    """Its status is longer than one read."""
    groups = range(10**8, 10**8 + 4000)
    code = f"import os; os.setgroups(range({groups.start}, {groups.stop})); print(flush=True); input()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        passes = processes.Passes()
        found = [
            next(each for each in seen.processes if each.pid == running.pid)
            for seen in (processes.read_all(), passes.read_all(), passes.read_all())
        ]
        passes.close()
        running.kill()
    assert [each.gids >= set(groups) for each in found] == [True] * 3
    assert [each.threads for each in found] == [1, 1, 1]


def test_the_kernel_is_asked_for_the_very_mapping(mapped):
    """A mapping of another file, part or size at the same address is another one."""
    fd = os.open("/proc/self/maps", os.O_RDONLY)
    try:
        every = procmap.shared(fd)
        (found,) = (fields for fields in every if fields[5] == mapped.stat().st_ino)
        assert procmap.has(fd, map(procmap.question, every))
        for word in range(len(found)):
            other = list(found)
            # The address asked for stays in the mapping.
            other[word] += 4096
            assert not procmap.has(fd, [procmap.question(tuple(other))])
        beyond = max(fields[1] for fields in every)
        assert not procmap.has(fd, [procmap.question((beyond, *found[1:]))])
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        pytest.skip("this kernel has no PROCMAP_QUERY (Linux 6.11)")
    finally:
        os.close(fd)
