# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Large windows cost what is mapped in them, and a kernel's regions are no client's own tables."""

from __future__ import annotations

import fcntl
import os

import pytest

from mshare.host import pagemap, processes, segments
from mshare.host.segments import Filesystem
from mshare.kernel import abi
from mshare.survey.survey import survey
from mshare.units import GIB, MIB, TIB
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
