# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes as people write and read them; inside the library every size is an integer of bytes."""

from __future__ import annotations

import re
from typing import Union

from .errors import InvalidRequest

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
Size = Union[int, str]
# A bare letter is binary, as in systemd units, sysctl and Oracle parameter files.
_FACTORS = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1 << (10 * power) for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{letter: 1 << (10 * power) for power, letter in enumerate("kmgtp", 1)},
}
_PATTERN = re.compile(r"^\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*$")


def parse_size(value: Size, what: str = "size") -> int:
    """Return bytes for 322122547200, "300GiB", "64 GB" (10^9), "512M" (2^20).

    Raises InvalidRequest for anything else, for zero and for negative sizes.
    """
    if isinstance(value, bool):
        raise InvalidRequest(f"{what} {value!r} is not a size; write it like 300GiB")
    if isinstance(value, int):
        size_bytes = value
    else:
        match = _PATTERN.match(str(value))
        if match is None or match.group(2).lower() not in _FACTORS:
            raise InvalidRequest(
                f"{what} {value!r} is not a size; write a whole number of bytes or a number with a"
                " unit, like 300GiB, 64 GB (10^9 bytes) or 512M (2^20 bytes)"
            )
        number, factor = match.group(1), _FACTORS[match.group(2).lower()]
        # Fractions are scaled as integers, so that 0.1TiB does not depend on a float.
        whole, __, fraction = number.partition(".")
        size_bytes = (int(whole + fraction) * factor) // 10 ** len(fraction)
    if size_bytes <= 0:
        raise InvalidRequest(f"{what} {value!r} must be greater than zero, like 300GiB")
    return size_bytes


def format_size(size_bytes: float) -> str:
    """Return a size with a binary unit, for people: 1536 -> '1.5 KiB', 300 * GIB -> '300 GiB'."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.1f}".rstrip("0").rstrip(".") + f" {unit}"


def format_milliseconds(milliseconds: float) -> str:
    """Return a time for people: 31.04 -> '31.0 ms', and 0.02 -> '0.020 ms', which is not nothing."""
    return f"{milliseconds:.3f} ms" if 0 < milliseconds < 0.1 else f"{milliseconds:.1f} ms"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 host, 1,500 hosts; `plural` where it is not made with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
