# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments of every kind, made by real processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mshare.host import pagemap, processes, segments
from mshare.units import GIB, MIB, TIB
from rig.survey_parts import LIBC, NORESERVE, instance_of, map_shared, running, surveyed, sysv, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
SIZE = 8 * MIB
KEY = 0x5EED01
HUGETLB = 0x40000
MADV_COLLAPSE = 25
SHARER = """
import mmap, signal
memory = mmap.mmap(-1, 8 << 20)
memory[0] = 1
print("ready", flush=True)
signal.pause()
"""


def anonymous(folder):
    return map_shared(-1, SIZE)


def sysv_segment(folder):
    return sysv(SIZE, KEY)


def posix(folder):
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE)
        return map_shared(file.fileno(), SIZE)


def memfd(folder):
    fd = os.memfd_create("sga")
    os.ftruncate(fd, SIZE)
    return map_shared(fd, SIZE)


def file(folder):
    with open(f"{folder}/data", "wb+") as opened:
        opened.truncate(SIZE)
        return map_shared(opened.fileno(), SIZE)


@pytest.mark.parametrize(
    ("make", "kind", "name"),
    [
        (anonymous, "anonymous", "inode "),
        (sysv_segment, "sysv", "key 0x005eed01"),
        (posix, "posix", "/dev/shm/"),
        (memfd, "memfd", "sga"),
        (file, "file", ""),
    ],
)
def test_kinds(make, kind, name, tmp_path):
    with running(lambda number: touch(make(tmp_path), SIZE)) as (pid,):
        __, found = surveyed(pid)
    (segment,) = found["segments"]
    assert (segment["kind"], segment["size_bytes"]) == (kind, SIZE)
    assert segment["name"].startswith(name)
    assert segment["key"] == (KEY if kind == "sysv" else None)
    # 4 or 5 leaf tables, by its address, and a PMD table.
    assert segment["page_tables_bytes"] in range(4 * 4096, 7 * 4096 + 1)
    assert (segment["processes"], segment["page_bytes"], segment["huge_bytes"]) == (1, 4096, 0)


@contextlib.contextmanager
def huge_pages(page_bytes, count):
    """So many free huge pages more than there are, given back afterwards; skips where the kernel has none."""
    pool = Path(f"/sys/kernel/mm/hugepages/hugepages-{page_bytes // 1024}kB")
    if not pool.exists():
        pytest.skip(f"this kernel has no huge pages of {page_bytes >> 20} MiB")
    total = pool / "nr_hugepages"
    before = int(total.read_text())
    try:
        total.write_text(str(before + count))
        free = int((pool / "free_hugepages").read_text())
        if free < count:
            pytest.skip(f"{free} of {count} huge pages of {page_bytes >> 20} MiB could be reserved")
        yield
    finally:
        total.write_text(str(before))


@pytest.mark.parametrize(
    ("page_bytes", "flags", "tables_bytes"),
    # With pages of 1 GiB there is no table of a segment's own.
    [(2 * MIB, HUGETLB | 21 << 26, 4096), (GIB, HUGETLB | 30 << 26, 0)],
)
def test_hugetlb(page_bytes, flags, tables_bytes):
    size_bytes = max(SIZE, page_bytes)
    with (
        huge_pages(page_bytes, size_bytes // page_bytes),
        running(lambda number: touch(map_shared(-1, size_bytes, flags=flags), size_bytes)) as (pid,),
    ):
        found_all, found = surveyed(pid)
    (segment,) = found["segments"]
    assert (segment["kind"], segment["page_bytes"]) == ("hugetlb", page_bytes)
    assert segment["huge_bytes"] == size_bytes
    assert segment["congruent_2mib"]
    assert segment["page_tables_bytes"] == tables_bytes
    (pool,) = (
        one
        for one in found_all["host"]["huge_page_pools"]
        if one["page_bytes"] == page_bytes and one["node"] is None
    )
    assert pool["total"] >= size_bytes // page_bytes


def test_transparent_huge_pages():
    def work(number):
        address = map_shared(-1, SIZE, address=32 * TIB)
        touch(address, SIZE, 4096)
        # As the plan's remedy does it; works whatever shmem_enabled says (Linux 6.1).
        if LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(SIZE), MADV_COLLAPSE):
            raise OSError(ctypes.get_errno(), "MADV_COLLAPSE")

    with running(work) as (pid,):
        __, found = surveyed(pid)
    (segment,) = found["segments"]
    assert (segment["kind"], segment["page_bytes"], segment["huge_bytes"]) == ("anonymous", 4096, SIZE)
    # The PMD table; the leaf tables went with the small pages.
    assert segment["page_tables_bytes"] == 4096


def test_a_setuid_program_is_told(tmp_path):
    program = tmp_path / "setuid"
    shutil.copy(Path(sys.executable).resolve(), program)
    program.chmod(0o4755)
    with subprocess.Popen(
        [str(program), "-S", "-c", SHARER],
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
        stdout=subprocess.PIPE,
    ) as running_program:
        try:
            assert running_program.stdout.readline() == b"ready\n"
            __, found = surveyed(running_program.pid)
        finally:
            running_program.kill()
    assert found["setuid"]
    assert found["executable"] == str(program)


@pytest.mark.parametrize(
    ("shift", "congruent", "aligned"), [(0, True, True), (2 * MIB, True, False), (4096, False, False)]
)
def test_placing(shift, congruent, aligned):
    address = 32 * TIB + shift
    with running(lambda number: touch(map_shared(-1, SIZE, address=address), SIZE)) as (pid,):
        __, found = surveyed(pid)
    (segment,) = found["segments"]
    assert segment["address"] == address
    assert (segment["congruent_2mib"], segment["aligned_1gib"]) == (congruent, aligned)


def test_a_sparse_segment_of_300_gib():
    def work(number):
        touch(map_shared(-1, 300 * GIB, flags=NORESERVE, address=32 * TIB), 300 * GIB, GIB)

    with running(work) as (pid,):
        __, found = surveyed(pid)
    (segment,) = found["segments"]
    assert segment["size_bytes"] == 300 * GIB
    # A page in every GiB: a leaf and a PMD table each.
    assert segment["page_tables_bytes"] == 300 * 2 * 4096


def test_both_ways_of_reading_agree():
    def work(number):
        touch(map_shared(-1, SIZE), SIZE)
        touch(map_shared(-1, 64 * MIB), 20 * MIB, 3 * MIB)

    with running(work) as (pid,):
        process = next(one for one in processes.read_all().processes if one.pid == pid)
        mappings = segments.Reader().shared(process)
        assert segments.Reader(querying=False).shared(process) == mappings
        inside = [(one, 4096) for one in mappings]
        counted = []
        for scanning in (True, False):
            with pagemap.Pagemap(pid, scanning) as opened:
                counted.append(pagemap.tables(opened, inside))
    assert len(mappings) == 2
    assert counted[0] == counted[1]


def test_ten_thousand_mappings():
    fd = os.memfd_create("parts")
    os.ftruncate(fd, 40 * MIB)

    def work(number):
        for index in range(10_000):
            # Every other page, so that the kernel does not join them.
            touch(map_shared(fd, 4096, index * 4096, 32 * TIB + index * 8192), 4096)

    try:
        with running(work) as (pid,):
            __, found = surveyed(pid)
    finally:
        os.close(fd)
    (segment,) = found["segments"]
    assert segment["size_bytes"] == 10_000 * 4096
    # 78.1 MiB of address space: mappings in one 2 MiB range share a table.
    assert segment["page_tables_bytes"] == (40 + 1) * 4096


def test_threads():
    def work(number):
        touch(map_shared(-1, SIZE), SIZE)
        for __ in range(7):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    with running(work) as (pid,):
        __, found = surveyed(pid)
    assert (found["threads"], found["processes"]) == (8, 1)


def test_who_shares_belongs_together_and_strangers_do_not():
    fds = [os.memfd_create(name) for name in ("one", "two")]
    for fd in fds:
        os.ftruncate(fd, SIZE)
    try:
        with running(lambda number: touch(map_shared(fds[number % 2], SIZE), SIZE), 6) as pids:
            found, first = surveyed(pids[0])
            second = instance_of(found, pids[1])
    finally:
        for fd in fds:
            os.close(fd)
    assert first["pids"] == sorted(pids[::2])
    assert second["pids"] == sorted(pids[1::2])
    assert first["name"] != second["name"]
