# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules alone: no FUSE, no root."""

from __future__ import annotations

import errno
import struct

import pytest

from rig.msharefs_rules import (
    GENERATIONS,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_SHARED,
    NO_FD,
    PAGE_BYTES,
    ClientFile,
    Host,
    Region,
)

MIB = 1 << 20
SIZE = 4 * MIB
ANONYMOUS = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS
READ, READ_WRITE = 1, 3
CREATE, UNMAP = 0x40287800, 0x40107801
SET_SIZE, CREATE_OLD, UNMAP_OLD = 0x40107801, 0x40287802, 0x40107803


def make_region(generation: str = "2025-08", host: Host | None = None) -> Region:
    return Region(GENERATIONS[generation], 2 * MIB, host)


def sized(generation: str = "2025-08", host: Host | None = None) -> Region:
    region = make_region(generation, host)
    region.truncate(SIZE)
    return region


def mapping(start=0, size=MIB, offset=0, prot=READ_WRITE, flags=ANONYMOUS, fd=NO_FD) -> bytes:
    return struct.pack("<QQQIII4x", start, size, offset, prot, flags, fd)


def refusal(call, *arguments) -> str:
    """The name of the errno, or 'ok'."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({}, "ok"),
        ({"size": SIZE}, "ok"),
        ({"size": 0}, "EINVAL"),
        ({"start": 1}, "EINVAL"),
        ({"start": SIZE}, "EINVAL"),
        ({"start": SIZE - MIB, "size": 2 * MIB}, "EINVAL"),
        ({"start": 1 << 63, "size": 1 << 63}, "ENOMEM"),
        ({"offset": 1}, "EINVAL"),
        ({"flags": MAP_SHARED | MAP_ANONYMOUS}, "EINVAL"),
        ({"flags": MAP_FIXED | MAP_ANONYMOUS}, "EINVAL"),
        ({"flags": 0x2 | MAP_FIXED | MAP_ANONYMOUS}, "EINVAL"),
        ({"flags": MAP_SHARED | MAP_FIXED}, "EBADF"),
        ({"flags": ANONYMOUS | MAP_HUGETLB, "size": 2 * MIB}, "ENOMEM"),
    ],
)
def test_create_mapping(request_, answer):
    assert refusal(sized().ioctl, CREATE, mapping(**request_)) == answer


@pytest.mark.parametrize(
    ("file", "request_", "answer"),
    [
        (ClientFile(), {}, "ok"),
        (ClientFile(is_writable=False), {}, "EACCES"),
        (ClientFile(is_writable=False), {"prot": READ}, "ok"),
        (ClientFile(is_mappable=False), {}, "EACCES"),
        (ClientFile(is_on_msharefs=True), {}, "EINVAL"),
        (ClientFile(), {"flags": MAP_SHARED | MAP_FIXED | MAP_HUGETLB}, "EINVAL"),
    ],
)
def test_create_file_mapping(file, request_, answer):
    region = sized(host=Host(open_client_file=lambda pid, fd: file))
    request_ = {"flags": MAP_SHARED | MAP_FIXED, "fd": 7, **request_}
    assert refusal(region.ioctl, CREATE, mapping(**request_)) == answer


def test_older_generations_know_only_anonymous_memory():
    region = sized("2025-04")
    assert refusal(region.ioctl, CREATE, mapping(flags=MAP_SHARED | MAP_FIXED, fd=7)) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping(flags=ANONYMOUS | MAP_HUGETLB)) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping(fd=0)) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping()) == "ok"


def test_overcommit_is_refused_unless_asked_for():
    region = sized(host=Host(commit_limit_bytes=MIB))
    assert refusal(region.ioctl, CREATE, mapping(size=2 * MIB)) == "ENOMEM"
    flags = ANONYMOUS | MAP_NORESERVE
    assert refusal(region.ioctl, CREATE, mapping(size=2 * MIB, flags=flags)) == "ok"


def test_huge_pages_run_out():
    region = sized(host=Host(huge_bytes=2 * MIB))
    flags = ANONYMOUS | MAP_HUGETLB
    assert refusal(region.ioctl, CREATE, mapping(flags=flags)) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping(size=2 * MIB, flags=flags)) == "ok"
    request = mapping(start=2 * MIB, size=2 * MIB, flags=flags)
    assert refusal(region.ioctl, CREATE, request) == "ENOMEM"


def test_overlap_replaces_silently_or_not_at_all():
    region = sized()
    region.ioctl(CREATE, mapping())
    region.write_memory(0, b"x" * PAGE_BYTES)
    assert refusal(region.ioctl, CREATE, mapping(flags=ANONYMOUS | MAP_FIXED_NOREPLACE)) == "EEXIST"
    region.ioctl(CREATE, mapping(size=PAGE_BYTES))
    assert region.read_memory(0, PAGE_BYTES) == bytes(PAGE_BYTES)


def test_unmap_leaves_a_hole_and_the_rest():
    region = sized()
    region.ioctl(CREATE, mapping())
    region.write_memory(0, b"x" * 3 * PAGE_BYTES)
    region.ioctl(UNMAP, struct.pack("<QQ", PAGE_BYTES, PAGE_BYTES))
    assert region.read_memory(0, PAGE_BYTES) == b"x" * PAGE_BYTES
    assert region.read_memory(2 * PAGE_BYTES, PAGE_BYTES) == b"x" * PAGE_BYTES
    assert refusal(region.read_memory, PAGE_BYTES, PAGE_BYTES) == "EIO"
    region.ioctl(CREATE, mapping(start=PAGE_BYTES, size=PAGE_BYTES))
    assert region.read_memory(PAGE_BYTES, PAGE_BYTES) == bytes(PAGE_BYTES)


def test_late_write_back_into_a_replaced_range_is_lost():
    region = sized()
    region.forget_cached = lambda: region.write_memory(0, b"late" * 1024)
    region.ioctl(CREATE, mapping())
    region.ioctl(CREATE, mapping())
    assert region.read_memory(0, PAGE_BYTES) == bytes(PAGE_BYTES)


def test_size_is_set_once_and_zero_bricks():
    region = make_region()
    assert refusal(region.truncate, MIB) == "EINVAL"
    assert refusal(region.fallocate, 1, 0, SIZE) == "ENOTSUP"
    assert refusal(region.fallocate, 0, 2 * MIB, SIZE) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping()) == "EINVAL"
    assert refusal(region.truncate, 0) == "ok"
    assert refusal(region.truncate, SIZE) == "EINVAL"
    assert refusal(region.ioctl, CREATE, mapping()) == "EINVAL"


@pytest.mark.parametrize("generation", ["2024-09", "2025-01"])
def test_by_address(generation):
    region = make_region(generation)
    start = 1 << 41
    assert refusal(region.ioctl, CREATE_OLD, mapping(start=start)) == "EINVAL"
    assert refusal(region.ioctl, SET_SIZE, struct.pack("<QQ", start + 1, SIZE)) == "EINVAL"
    region.ioctl(SET_SIZE, struct.pack("<QQ", start, SIZE))
    assert struct.unpack("<QQ", region.ioctl(0x80107800)) == (start, SIZE)
    assert refusal(region.ioctl, SET_SIZE, struct.pack("<QQ", start, SIZE)) == "EINVAL"
    assert refusal(region.ioctl, CREATE_OLD, mapping(start=0)) == "EINVAL"
    assert refusal(region.ioctl, CREATE_OLD, mapping(start=start)) == "ok"
    has_unmap = generation == "2025-01"
    unmap = struct.pack("<QQ", start, MIB)
    assert refusal(region.ioctl, UNMAP_OLD, unmap) == ("ok" if has_unmap else "ENOTTY")


def test_a_dead_region_keeps_size_and_ioctls_but_no_memory():
    region = sized()
    region.ioctl(CREATE, mapping())
    region.die()
    assert region.size_bytes == SIZE
    assert refusal(region.ioctl, CREATE, mapping()) == "ok"
    assert refusal(region.read_memory, 0, PAGE_BYTES) == "EIO"
