# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A touch that would end a process is found by a child, and said."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping
from mshare.clients import client, fault
from mshare.clients.fault import Fault
from mshare.units import GIB, KIB, MIB


@pytest.mark.parametrize(
    ("mappings", "span_bytes", "ranges"),
    [
        ([], MIB, []),
        ([Mapping(0, MIB)], 0, []),
        ([Mapping(0, MIB), Mapping(GIB, 4 * MIB)], 3 * MIB, [(0, MIB), (GIB, 2 * MIB)]),
        ([Mapping(0, MIB), Mapping(GIB, 4 * MIB)], GIB, [(0, MIB), (GIB, 4 * MIB)]),
    ],
)
def test_what_is_touched(mappings, span_bytes, ranges):
    assert list(fault.ranges(mappings, span_bytes)) == ranges


@pytest.fixture
def target(here):
    with here.owned():
        yield client.Target.find("sga", connect("simulated", str(here.root)))


@pytest.mark.parametrize("stride_bytes", [4 * KIB, 2 * MIB])
def test_nothing_is_wrong(target, stride_bytes):
    assert fault.find(target, 64 * MIB, stride_bytes) is None


@pytest.mark.parametrize("stride_bytes", [4 * KIB, 2 * MIB])
def test_a_hole_is_found_to_the_page(target, stride_bytes):
    holed = replace(target, mappings=(Mapping(0, 64 * MIB), Mapping(64 * MIB, 10 * MIB)))
    assert fault.find(holed, 64 * MIB, stride_bytes) is None, "no further than what is touched"
    assert fault.find(holed, 74 * MIB, stride_bytes) == Fault(64 * MIB, signal.SIGSEGV)


def test_what_a_child_cannot_attach_is_for_the_caller_to_find_out(target):
    os.unlink(target.path)
    assert fault.find(target, 64 * MIB, 2 * MIB) is None


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGSEGV, r"cannot be touched at offset 0x1000: nothing is mapped there any more \(SIGSEGV\)"),
        (signal.SIGBUS, r"has no memory for it \(SIGBUS\): a file that was made shorter, or a full tmpfs"),
    ],
)
def test_what_is_said(number, sentence):
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(Fault(4096, number).sentence("sga"))


def test_a_file_that_was_made_shorter(here, tmp_path):
    data = here.directory / "data"
    data.write_bytes(bytes(8 * MIB))
    with here.owned("sga", "--map", f"kind=file,path={data},size=8MiB"):
        os.truncate(data, 4 * MIB)
        done = here.run("attach", "sga", "--touch", "8MiB")
        assert done.returncode == 1
        assert "region sga cannot be touched at offset 0x400000" in done.stderr
        done = here.run("clients", "start", "sga", "--count", "2")
        assert done.returncode == 1
        assert "killed by SIGBUS before it was attached: region sga cannot be touched at" in done.stderr


def test_nothing_to_touch(here):
    with here.owned():
        here.ok("unmap", "sga", "--offset", "0", "--size", "64MiB")
        done = here.run("clients", "start", "sga", "--count", "2")
        assert done.returncode == 1
        assert "nothing is known to be mapped in region sga" in done.stderr
        here.ok("clients", "start", "sga", "--count", "2", "--no-touch")
