# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Large windows cost what is mapped in them, and a kernel's regions are no client's own tables."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal

import pytest

from mshare.host import pagemap, processes, segments
from mshare.host.segments import Filesystem
from mshare.kernel import abi
from mshare.survey.survey import survey
from mshare.units import GIB, MIB, TIB
from rig import apart
from rig.survey_parts import NORESERVE, map_shared, running, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
WINDOW = 512 * GIB


@pytest.mark.skipif(not pagemap.scan_available(), reason="this kernel has no PAGEMAP_SCAN (Linux 6.7)")
@pytest.mark.parametrize("touched", [0, 1, 40])
def test_a_scan_asks_once_for_each_populated_2_mib_and_once_more(touched, monkeypatch):
    def work(number):
        address = map_shared(-1, WINDOW, flags=NORESERVE, address=32 * TIB)
        touch(address, touched * GIB, GIB)

    asked = []
    ask = fcntl.ioctl
    with running(work) as (pid,):
        process = next(one for one in processes.read_all().processes if one.pid == pid)
        inside = [(one, 4096) for one in segments.Reader().shared(process)]
        with pagemap.Pagemap(pid) as opened:
            monkeypatch.setattr(fcntl, "ioctl", lambda *words: asked.append(words[1]) or ask(*words))
            tables = pagemap.tables(opened, inside)
    assert sum(one.leaf for one in tables.values()) == touched
    assert len(asked) == touched + 1


@pytest.fixture
def region(monkeypatch):
    """A segment that looks as a kernel's region does: its file system is msharefs."""
    fd = os.memfd_create("sga")
    os.ftruncate(fd, WINDOW)
    real = segments.Devices.of

    def of(devices, mapping, pid):
        if mapping.path.startswith(b"/memfd:sga"):
            return Filesystem(abi.FILESYSTEM)
        return real(devices, mapping, pid)

    monkeypatch.setattr(segments.Devices, "of", of)
    yield fd
    os.close(fd)


def test_a_region_is_listed_and_never_scanned_nor_charged_to_its_clients(region, monkeypatch):
    scanned = []
    real = pagemap.Pagemap.__init__
    monkeypatch.setattr(
        pagemap.Pagemap,
        "__init__",
        lambda opened, pid, *more: scanned.append(pid) or real(opened, pid, *more),
    )
    with running(lambda number: touch(map_shared(region, WINDOW), 8 * MIB), 3) as pids:
        found = _of(pids)
    (segment,) = found.segments
    assert (segment.kind, segment.processes) == ("msharefs", 3)
    assert not set(pids) & set(scanned)
    assert found.page_tables.segments_bytes == 0
    assert found.page_tables.remainder_bytes == found.page_tables.sum_bytes
    # The only region there is: what PageTables has and no process is the region's, or said to be unknown.
    assert segment.page_tables_bytes is None or segment.page_tables_bytes >= 0


def _of(pids):
    surveyed = survey(threshold_bytes=16 << 10)
    return next(one for one in surveyed.instances if pids[0] in one.pids)


def test_with_two_regions_nobody_can_tell_whose_the_shared_tables_are(region):
    other = os.memfd_create("sga2")
    os.ftruncate(other, 8 * MIB)

    def work(number):
        touch(map_shared(region, WINDOW), 8 * MIB)
        touch(map_shared(other, 8 * MIB), 8 * MIB)

    with running(work, 2) as pids:
        found = _of(pids)
    os.close(other)
    assert [segment.page_tables_bytes for segment in found.segments] == [None, None]


def test_before_linux_6_7_a_scan_reads_where_the_segment_has_data(monkeypatch):
    """512 GiB would be a GiB of pagemap to read: more than a minute."""

    def work(number):
        address = map_shared(-1, WINDOW, flags=NORESERVE, address=32 * TIB)
        touch(address + 5 * MIB, 40 * GIB, GIB)
        # Data that another process would have put there, every other page of a range that has a table.
        touch(address, MIB, 8192)

    read_bytes = []
    real = os.pread
    with running(work) as (pid,):
        process = next(one for one in processes.read_all().processes if one.pid == pid)
        (mapping,) = segments.Reader().shared(process)
        with pagemap.Pagemap(pid, scanning=False) as opened:
            monkeypatch.setattr(
                os, "pread", lambda fd, count, offset: read_bytes.append(count) or real(fd, count, offset)
            )
            (tables,) = pagemap.tables(opened, [(mapping, 4096)]).values()
    assert (tables.leaf, tables.pmd) == (41, 40)
    assert sum(read_bytes) <= 41 * 4096


def test_before_linux_6_7_data_that_a_process_has_not_touched_is_not_its_own(monkeypatch):
    fd = os.memfd_create("sga")
    os.ftruncate(fd, GIB)

    def work(number):
        touch(map_shared(fd, GIB), GIB if number == 0 else 8 * MIB)

    with running(work, 2) as pids:
        counted = []
        for pid in pids:
            process = next(one for one in processes.read_all().processes if one.pid == pid)
            with pagemap.Pagemap(pid, scanning=False) as opened:
                (tables,) = pagemap.tables(
                    opened, [(one, 4096) for one in segments.Reader().shared(process)]
                ).values()
                counted.append(tables.leaf)
    os.close(fd)
    assert counted == [512, 4]


def test_a_file_on_a_disk_is_read_whole_before_linux_6_7(tmp_path):
    """A page of a hole that was read is in memory, and the file has no data there."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(16 * MIB)

    def work(number):
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, 16 * MIB, access=mmap.ACCESS_READ) as memory:
            held.append(memory)
            assert memory[4 * MIB] == 0
            os.write(ready[1], b"1")
            signal.pause()

    held: list[mmap.mmap] = []
    ready = os.pipe()
    pid = apart.fork()
    if pid == 0:
        try:
            work(0)
        finally:
            os._exit(1)
    try:
        assert os.read(ready[0], 1) == b"1"
        process = next(one for one in processes.read_all().processes if one.pid == pid)
        (mapping,) = (
            one for one in segments.Reader().shared(process) if one.identity[1] == path.stat().st_ino
        )
        with pagemap.Pagemap(pid, scanning=False) as opened:
            (tables,) = pagemap.tables(opened, [(mapping, 4096)]).values()
        assert tables.leaf == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in ready:
            os.close(fd)
