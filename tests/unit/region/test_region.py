# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regions as a program uses them, and the calls that the mailing list wished for.

What a region does to memory and processes is in tests/conformance; here is what the library adds.
"""

from __future__ import annotations

import errno
import os

import pytest

import mshare
from conformance.actors import crowd
from conformance.targets import Target
from mshare.backends import choose
from mshare.backends.mapping import Mapping
from mshare.errors import InvalidRequest
from mshare.units import GIB, KIB, MIB, TIB


@pytest.fixture(params=["2022-06", "2024-09", "2025-01", "2025-04", "2025-08"])
def root(request, monkeypatch):
    """The default root of the library, as each generation."""
    with Target(request.param, "simulated").mounted() as root:
        monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
        monkeypatch.setattr(choose.paths, "simulated_root", lambda: root)
        yield root


@pytest.fixture
def newest(monkeypatch):
    with Target("2025-08", "simulated").mounted() as root:
        monkeypatch.setattr(choose, "kernel_has_msharefs", lambda: False)
        monkeypatch.setattr(choose.paths, "simulated_root", lambda: root)
        yield root


def in_a_process(act) -> None:
    """Attach nothing in the test's own process."""
    assert crowd(1, lambda _number: act()) == [0]


def test_create_attach_stat_unlink(root):
    def act() -> None:
        with mshare.Region.create("sga", "300GiB", overcommit=True) as region:
            stat = region.stat()
            mapped = 300 * GIB if backends_generation() != "2022-06" else 512 * GIB
            assert (stat.name, stat.window_bytes, stat.mapped_bytes) == ("sga", 512 * GIB, mapped)
            assert (stat.address is None) == (stat.generation in ("2025-04", "2025-08"))
            assert stat.mode == 0o600
            with region.attach() as attachment:
                assert attachment
                attachment.view(299 * GIB, 5)[:] = b"hello"
                assert bytes(attachment.memory[299 * GIB : 299 * GIB + 5]) == b"hello"
            assert not attachment
            with pytest.raises(InvalidRequest, match="the region is detached; attach it again"):
                attachment.view(0, 1)
        assert not region
        with mshare.Region.open("sga") as again, again.attach() as attachment:
            assert bytes(attachment.view(299 * GIB, 5)) == b"hello"
        assert mshare.list_regions() == ["sga"]
        mshare.unlink("sga")
        assert mshare.list_regions() == []

    in_a_process(act)


def backends_generation() -> str:
    return mshare.connect().generation.id


def test_the_calls_of_the_mails(root):
    def act() -> None:
        address = mshare.mshare("sga", 0, MIB, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        assert address % (512 * GIB) == 0
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(FileExistsError):
            mshare.mshare("sga", 0, MIB, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with pytest.raises(FileNotFoundError):
            mshare.mshare("other", 0, MIB)
        with pytest.raises(OSError, match="Invalid argument"):
            mshare.mshare("sga", 0, 12345)
        mshare.mshare_unlink("sga")
        with pytest.raises(FileNotFoundError):
            mshare.mshare_unlink("sga")
        fresh = mshare.mcreate("fresh")
        assert fresh.geometry().window_bytes == 0
        assert os.listdir(root).count("fresh") == 1
        with pytest.raises(FileExistsError):
            mshare.mcreate("fresh")
        mshare.mcreate("fresh", os.O_RDWR).close()

    in_a_process(act)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "region sga needs a size, mappings or a window, like size 300GiB"),
        ({"size": 0}, "size 0 must be greater than zero"),
        ({"size": "300 gigs"}, "size '300 gigs' is not a size"),
        ({"size": 128 * TIB}, "a process has 128 TiB of address space"),
        ({"size": GIB, "window": "much"}, "window 'much' is not a size"),
        ({"mappings": [Mapping(0, GIB), Mapping(0, GIB)]}, "overlaps the previous mapping"),
        ({"size": GIB, "mappings": [Mapping(MIB, GIB)]}, "overlaps the previous mapping"),
        ({"mappings": [Mapping(5, GIB)]}, "is not aligned"),
        ({"mappings": [Mapping(0, GIB, "file")]}, "is a file without a path"),
    ],
)
def test_bad_requests_leave_nothing(newest, options, said):
    with pytest.raises(InvalidRequest) as caught:
        mshare.Region.create("sga", **options)
    assert said in str(caught.value)
    assert mshare.list_regions() == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"size": 500 * GIB}, errno.ENOMEM),
        ({"mappings": [Mapping(0, GIB), Mapping(GIB, GIB, "file", path="/none/such")]}, errno.ENOENT),
        ({"mappings": [Mapping(0, GIB), Mapping(GIB, GIB, "file", path="/etc")]}, errno.EISDIR),
    ],
)
def test_refusals_half_way_leave_nothing(newest, options, code):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        mshare.Region.create("sga", **options)
    assert caught.value.errno == code
    assert mshare.list_regions() == []


def test_a_region_that_exists(newest):
    with mshare.Region.create("sga", MIB), pytest.raises(FileExistsError):
        mshare.Region.create("sga", MIB)
    assert mshare.list_regions() == ["sga"]


@pytest.mark.parametrize("name", ["", "..", "a//b", "x" * 300])
@pytest.mark.parametrize("call", [mshare.Region.open, mshare.unlink, mshare.mcreate, mshare.mshare_unlink])
def test_bad_names_everywhere(newest, call, name):
    with pytest.raises(InvalidRequest):
        call(name)


def test_mapping_and_unmapping(newest, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(b"x" * 5000)

    def act() -> None:
        with mshare.Region.create("sga", window=GIB) as region:
            assert region.stat().mapped_bytes == 0
            region.map_anonymous(0, 5000)
            region.map_file(str(data), MIB, writable=True)
            assert [(m.offset, m.size_bytes, m.kind) for m in region.stat().mappings] == [
                (0, 8 * KIB, "anonymous"),
                (MIB, 8 * KIB, "file"),
            ]
            with pytest.raises(FileExistsError):
                region.map_anonymous(4096, 4096)
            with pytest.raises(OSError, match="memory"):
                region.map_huge(GIB, 300 * GIB)
            region.map(Mapping(4096, 4096), replace=True)
            with region.attach() as attachment:
                attachment.view(MIB, 1)[:] = b"y"
                for offset, size in ((-1, 1), (0, -1), (512 * GIB, 1)):
                    with pytest.raises(InvalidRequest, match="are outside the window of 512 GiB"):
                        attachment.view(offset, size)
            region.unmap(0, "8KiB")
            assert region.stat().mapped_bytes == 8 * KIB
        assert data.read_bytes() == b"y" + b"x" * 4999

    in_a_process(act)


def test_an_address_that_is_not_aligned(newest):
    with (
        mshare.Region.create("sga", MIB) as region,
        pytest.raises(InvalidRequest, match="cannot hold a region"),
    ):
        region.attach(4096)


def test_access(newest):
    with mshare.Region.create("sga", MIB, mode=0o640) as region:
        assert region.stat().mode == 0o640
        region.set_access(0o660)
        assert region.stat().mode == 0o660
