# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a request for a region. Pure: they need no host, and raise before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..backends.mapping import Mapping
from ..errors import InvalidRequest
from ..kernel import abi
from ..kernel.generations import Generation
from ..pagetable import page_tables
from ..paths import DIRECTORIES_MAXIMUM
from ..units import MIB, counted, format_size, round_up

NAME_LENGTH = 128
# systemd instance names, file names and environment variables need no escaping for these.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*\Z")
# Files of msharefs itself, and of the simulator.
_TAKEN = (abi.INFO_FILE, "layout")
OWNER_BYTES = 32 * MIB
"""What an owner itself needs besides its region; measured 15 MiB."""


def region_name(name: str) -> str:
    """Return a region's name, alone (sga) or with the directories above it (sales/sga), or raise
    InvalidRequest."""
    return _name(name, "region", "sga or sales/sga", DIRECTORIES_MAXIMUM)


def directory_name(name: str) -> str:
    """Return the name of a directory of regions, or raise InvalidRequest."""
    return _name(name, "directory", "sales", DIRECTORIES_MAXIMUM - 1)


def _name(name: str, what: str, example: str, above_maximum: int) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"a {what} needs a name, like {example}, but the name is empty")
    if len(name) > NAME_LENGTH:
        raise InvalidRequest(
            f"{what} name {name[:20]!r}... has {counted(len(name), 'character')}; at most {NAME_LENGTH}"
            " are allowed"
        )
    parts = name.split("/")
    if not all(_PART.match(part) and part not in _TAKEN for part in parts):
        raise InvalidRequest(
            f"{what} name {name!r} cannot be used; write letters, digits, '_' and '.', each part beginning"
            f" with a letter or digit, and not {' or '.join(_TAKEN)}, like {example}"
        )
    if len(parts) - 1 > above_maximum:
        raise InvalidRequest(
            f"{what} name {name!r} has {counted(len(parts) - 1, 'directory', 'directories')} above it; at"
            f" most {above_maximum} are allowed"
        )
    return name


def window_bytes(end_bytes: int, alignment_bytes: int) -> int:
    """The window for objects that end at `end_bytes`: a multiple of the alignment.

    Raises InvalidRequest if it exceeds the address space.
    """
    window = round_up(end_bytes, alignment_bytes)
    if window >= abi.ADDRESS_SPACE_BYTES:
        raise InvalidRequest(
            f"{format_size(end_bytes)} needs a window of {format_size(window)} but a process has"
            f" {format_size(abi.ADDRESS_SPACE_BYTES)} of address space; request less than"
            f" {format_size(abi.ADDRESS_SPACE_BYTES - alignment_bytes)}"
        )
    return window


def address(value: int | None, alignment_bytes: int) -> int | None:
    """An address to attach at, or None for any; InvalidRequest if it is not aligned."""
    if value is None:
        return None
    if value <= 0 or value % alignment_bytes or value >= abi.ADDRESS_SPACE_BYTES:
        raise InvalidRequest(
            f"address {value:#x} cannot hold a region; use a multiple of {format_size(alignment_bytes)}"
            f" ({alignment_bytes:#x}) between that and {format_size(abi.ADDRESS_SPACE_BYTES)}, or omit it"
        )
    return value


def mappings(wanted: Iterable[Mapping], window: int, generation: Generation) -> list[Mapping]:
    """Check objects against a window and a generation; returns them sorted by offset.

    Raises InvalidRequest for a kind that the generation lacks, and for objects that are unaligned,
    beyond the window, or overlap.
    """
    ordered = sorted(wanted, key=lambda mapping: mapping.offset)
    kinds = generation.features.mapping_kinds
    end = 0
    for mapping in ordered:
        where = f"mapping of {format_size(mapping.size_bytes)} at offset {mapping.offset:#x}"
        if mapping.kind not in kinds:
            raise InvalidRequest(
                f"{where} is of kind {mapping.kind!r} but generation {generation.id} supports "
                + ", ".join(kinds)
                + "; see `mshare info`"
            )
        _sound(mapping, where)
        if mapping.end > window:
            raise InvalidRequest(
                f"{where} reaches beyond the region's window of {format_size(window)}; move it or request a"
                f" larger window"
            )
        if mapping.offset < end:
            raise InvalidRequest(
                f"{where} overlaps the previous mapping, which ends at offset {end:#x}; move it behind that"
            )
        end = mapping.end
    return ordered


def place(
    wanted: Iterable[Mapping], window: int | None, alignment_bytes: int, generation: Generation
) -> tuple[list[Mapping], int]:
    """A region's objects, checked, and its window: the requested one, or what the objects need."""
    objects = list(wanted)
    end = max((mapping.end for mapping in objects), default=1) if window is None else window
    window = window_bytes(end, alignment_bytes)
    return mappings(objects, window, generation), window


def _sound(mapping: Mapping, where: str) -> None:
    """Raise InvalidRequest for an object that no region can contain."""
    if mapping.size_bytes <= 0:
        raise InvalidRequest(f"{where} is empty; give it a size, like 300GiB")
    if mapping.prot & ~abi.PROT_ALL or mapping.prot < 0:
        raise InvalidRequest(f"{where} has the unknown protection {mapping.prot:#x}; write r or rw")
    huge = mapping.kind == "hugetlb"
    page = abi.HUGE_PAGE_BYTES if huge else abi.PAGE_BYTES
    negative = mapping.offset < 0 or mapping.object_offset < 0
    if negative or mapping.offset % page or mapping.object_offset % abi.PAGE_BYTES:
        raise InvalidRequest(f"{where} is not aligned; offsets are multiples of {format_size(page)}")
    if huge and mapping.size_bytes % page:
        raise InvalidRequest(f"{where} is not a multiple of pages of {format_size(page)}")


def memory_limit(name: str, memory_bytes: int, limit_bytes: int) -> None:
    """Refuse a limit below what a prefaulted region needs: the kernel would kill its owner half-way."""
    needed_bytes = memory_bytes + page_tables(memory_bytes).total_bytes + OWNER_BYTES
    if limit_bytes < needed_bytes:
        raise InvalidRequest(
            f"region {name} needs {format_size(needed_bytes)} when it is prefaulted, with its page tables"
            f" and its owner, but memory_max is {format_size(limit_bytes)}; raise memory_max, reduce the"
            f" region, or turn prefault off"
        )
