# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments of every kind, made by real processes."""

from __future__ import annotations

import os
import tempfile
import threading
import time

import pytest

from mshare.survey import pagemap, processes, segments
from mshare.units import GIB, MIB, TIB
from unit.survey_parts import NORESERVE, instance_of, map_shared, running, surveyed, sysv, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
SIZE = 8 * MIB
KEY = 0x5EED01
HUGETLB = 0x40000


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


def test_hugetlb():
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    with open(pool, encoding="ascii") as file:
        before = int(file.read())
    try:
        with open(pool, "w", encoding="ascii") as file:
            file.write(str(before + 4))
        with running(lambda number: touch(map_shared(-1, SIZE, flags=HUGETLB), SIZE)) as (pid,):
            __, found = surveyed(pid)
    except AssertionError as error:
        pytest.skip(f"no huge pages could be reserved: {error}")
    finally:
        with open(pool, "w", encoding="ascii") as file:
            file.write(str(before))
    (segment,) = found["segments"]
    assert (segment["kind"], segment["page_bytes"], segment["huge_bytes"]) == ("hugetlb", 2 * MIB, SIZE)
    assert segment["congruent_2mib"]
    assert segment["page_tables_bytes"] == 4096


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
        began = time.perf_counter()
        __, found = surveyed(pid)
        assert time.perf_counter() - began < 2
    (segment,) = found["segments"]
    assert segment["size_bytes"] == 300 * GIB
    # A page in every GiB: a leaf and a PMD table each.
    assert segment["page_tables_bytes"] == 300 * 2 * 4096


def test_both_ways_of_reading_agree():
    def work(number):
        touch(map_shared(-1, SIZE), SIZE)
        touch(map_shared(-1, 64 * MIB), 20 * MIB, 3 * MIB)

    with running(work) as (pid,):
        process = next(one for one in processes.look().processes if one.pid == pid)
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
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

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
