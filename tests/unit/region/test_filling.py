# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A child fills a region, in C or in Python; a touch that cannot be ends the child and is explained."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.backends.connect import connect
from mshare.backends.mapping import Mapping
from mshare.errors import MshareError, Unavailable
from mshare.region import filling
from mshare.region.filling import Fault, Filler, Place
from mshare.region.pattern import Pattern
from mshare.region.region import Region
from mshare.units import GIB, KIB, MIB
from rig.faults import open_files


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
    assert list(filling.ranges(mappings, span_bytes)) == ranges


@pytest.fixture(params=["c", "python"])
def language(request, monkeypatch):
    """What fills: the program in C, or Python where that cannot be had."""
    if request.param == "python":

        def none():
            raise Unavailable("mshare-client cannot be had here")

        monkeypatch.setattr(filling.client, "program", none)
    return request.param


@contextlib.contextmanager
def made(here, size):
    """A region of this process."""
    backend = connect("simulated", str(here.root))
    try:
        with Region.create("sga", size, backend=backend) as region:
            yield Place("sga", backend, region.stat().window_bytes, None)
    finally:
        with contextlib.suppress(FileNotFoundError):
            backend.unlink("sga")


@pytest.fixture
def place(here, language):
    with made(here, "64MiB") as place:
        with Region.open("sga", backend=place.backend) as region, region.attach() as attachment:
            Pattern(7, 0, 64 * MIB, 4 * KIB).write(attachment.memory)
        yield place


def content(place, offset=0, size_bytes=64 * MIB):
    """What is in the region: a copy."""
    with Region.open(place.name, backend=place.backend) as region, region.attach() as attachment:
        return attachment.view(offset, size_bytes).tobytes()


def present_bytes(place):
    return os.stat(place.backend.path(place.name)).st_blocks * 512


@pytest.mark.parametrize("stride_bytes", [4 * KIB, 2 * MIB])
def test_all_of_it_is_touched_and_stays_as_it_is(place, language, stride_bytes):
    before = content(place)
    steps = []
    filler = Filler(place)
    assert (filler.why_python is None) is (language == "c")
    assert (
        filler.touch_pages(
            [(0, 8 * MIB), (16 * MIB, 4 * MIB)], stride_bytes, lambda *step: steps.append(step)
        )
        is None
    )
    assert steps[-1] == (12 * MIB, 12 * MIB)
    assert steps == sorted(steps)
    assert content(place) == before


def test_every_page_that_is_touched_is_there(here, language):
    with made(here, "64MiB") as place:
        assert present_bytes(place) == 0
        assert Filler(place).touch_pages([(4 * MIB, 8 * MIB)], 4 * KIB) is None
        assert present_bytes(place) == 8 * MIB


def test_a_pattern_is_the_one_that_is_verified(place):
    steps = []
    pattern = Pattern(7, 2 * MIB, 60 * MIB, 4 * KIB)
    assert Filler(place).write_pattern(pattern, lambda *step: steps.append(step)) is None
    assert steps[-1][0] == steps[-1][1] > 59 * MIB
    with Region.open("sga", backend=place.backend) as region, region.attach() as attachment:
        assert pattern.verify(attachment.memory, 60 * MIB) == 0
        assert Pattern(8, 2 * MIB, 60 * MIB, 4 * KIB).verify(attachment.memory, 60 * MIB) == 60 * 256


@pytest.mark.parametrize("stride_bytes", [4 * KIB, 2 * MIB])
def test_a_hole_is_found_to_the_page(place, stride_bytes):
    assert Filler(place).touch_pages([(0, 64 * MIB)], stride_bytes) is None, "no further than what is touched"
    wanted = [(0, 64 * MIB), (64 * MIB, 10 * MIB)]
    assert Filler(place).touch_pages(wanted, stride_bytes) == Fault(64 * MIB, signal.SIGSEGV)


def test_a_pattern_that_ends_in_a_hole(place):
    assert Filler(place).write_pattern(Pattern(7, 0, 70 * MIB, 4 * KIB)) == Fault(64 * MIB, signal.SIGSEGV)


def test_a_region_that_cannot_be_attached(place, language):
    filler = Filler(place)
    os.unlink(place.backend.path(place.name))
    with pytest.raises((MshareError, FileNotFoundError)):
        filler.touch_pages([(0, 64 * MIB)], 2 * MIB)


def test_one_of_another_window(place):
    wrong = replace(place, window_bytes=2 * place.window_bytes)
    filler = Filler(wrong)
    if filler.why_python is None:
        with pytest.raises(MshareError, match=r"sga: Invalid argument \(EINVAL\)"):
            filler.touch_pages([(0, 64 * MIB)], 2 * MIB)


def test_a_child_that_is_killed_is_no_end_of_this_process(place, monkeypatch):
    children = []

    def kill(done_bytes, total_bytes):
        if not children:
            (child,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1:]
            children.append(int(child))
            os.kill(int(child), signal.SIGKILL)

    monkeypatch.setattr(filling, "_LOOK_SECONDS", 0)
    wanted = [(0, 64 * MIB)] * 500
    with pytest.raises(MshareError, match=r"the process that filled region sga was killed by SIGKILL before"):
        Filler(place).touch_pages(wanted, 4 * KIB, kill)
    assert not os.path.exists(f"/proc/{children[0]}")


def test_who_is_interrupted_leaves_no_child(place, monkeypatch):
    children = []

    def interrupt(done_bytes, total_bytes):
        children.extend(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1:])
        raise KeyboardInterrupt

    monkeypatch.setattr(filling, "_LOOK_SECONDS", 0)
    open_before = len(open_files())
    with pytest.raises(KeyboardInterrupt):
        Filler(place).touch_pages([(0, 64 * MIB)] * 500, 4 * KIB, interrupt)
    assert children
    assert not os.path.exists(f"/proc/{children[0]}")
    assert len(open_files()) == open_before


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
