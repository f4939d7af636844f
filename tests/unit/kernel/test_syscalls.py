# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's numbers, written down here once more from the posted headers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mshare.kernel import _libc, abi, build_libc, syscalls

NUMBERS = {
    "GET_SIZE": 0x80107800,
    "SET_SIZE": 0x40107801,
    "CREATE_MAPPING_BY_ADDRESS": 0x40287802,
    "UNMAP_BY_ADDRESS": 0x40107803,
    "CREATE_MAPPING_BY_OFFSET": 0x40287800,
    "UNMAP_BY_OFFSET": 0x40107801,
    "FILESYSTEM_MAGIC": 0x4D534852,
    "X86_64_ALIGNMENT_BYTES": 549755813888,
    "ADDRESS_SPACE_BYTES": 128 << 40,
    "PAGE_BYTES": 4096,
    "MAP_SHARED": 0x01,
    "MAP_PRIVATE": 0x02,
    "MAP_FIXED": 0x10,
    "MAP_ANONYMOUS": 0x20,
    "MAP_NORESERVE": 0x4000,
    "MAP_HUGETLB": 0x40000,
    "MAP_FIXED_NOREPLACE": 0x100000,
    "MAP_HUGE_2MB": 21 << 26,
    "MAP_HUGE_1GB": 30 << 26,
}
# struct -> (size, (member, offset)...)
STRUCTS = {
    "mshare_info": (16, ("start", 0), ("size", 8)),
    "mshare_create": (
        40,
        ("where", 0),
        ("size", 8),
        ("offset", 16),
        ("prot", 24),
        ("flags", 28),
        ("fd", 32),
    ),
    "mshare_unmap": (16, ("where", 0), ("size", 8)),
}


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_numbers(name, number):
    assert getattr(abi, name) == number


@pytest.mark.parametrize("name", STRUCTS)
def test_structs(name):
    size, *members = STRUCTS[name]
    struct = f"struct {name}"
    assert syscalls.ffi.sizeof(struct) == size
    assert [(member, syscalls.ffi.offsetof(struct, member)) for member, _offset in members] == members
    assert syscalls.ffi.typeof(struct).fields[-1][0] == members[-1][0]


@pytest.mark.parametrize(
    ("constant", "struct"),
    [
        ("INFO_STRUCT_BYTES", "mshare_info"),
        ("CREATE_STRUCT_BYTES", "mshare_create"),
        ("UNMAP_STRUCT_BYTES", "mshare_unmap"),
    ],
)
def test_the_sizes_in_the_ioctl_numbers_are_those_of_the_structs(constant, struct):
    assert getattr(abi, constant) == syscalls.ffi.sizeof(f"struct {struct}")


def test_no_system_call_number_is_known_to_the_library():
    """450 to 452, those of the 2022 series, belong to other calls of mainline now."""
    library = Path(abi.__file__).parents[1]
    for path in library.rglob("*.py"):
        # The preload makes those that have a name in every libc.
        assert not re.search(r"\bsyscall\s*\((?!SYS_[a-z_]+\b)", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("flags", "size_bytes"),
    [
        (abi.MAP_SHARED, 0),
        (abi.MAP_HUGETLB, 2 << 20),
        (abi.MAP_HUGETLB | abi.MAP_HUGE_2MB, 2 << 20),
        (abi.MAP_HUGETLB | abi.MAP_HUGE_1GB, 1 << 30),
        (abi.MAP_HUGE_1GB, 0),
    ],
)
def test_huge_page_sizes_in_flags(flags, size_bytes):
    assert abi.huge_page_bytes(flags) == size_bytes


def test_the_generated_file_is_what_the_generator_makes(tmp_path, monkeypatch):
    generator = Path(build_libc.__file__)
    copy = tmp_path / generator.name
    copy.write_bytes(generator.read_bytes())
    subprocess.run([sys.executable, copy], check=True, cwd=tmp_path)
    assert (tmp_path / "_libc.py").read_bytes() == Path(_libc.__file__).read_bytes()
