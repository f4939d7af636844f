# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes: every way to write one, every way to write none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.errors import InvalidRequest
from mshare.units import GIB, KIB, MIB, TIB, format_milliseconds, format_size, parse_size, round_up

GOOD = {
    322122547200: 300 * GIB,
    1: 1,
    "4096": 4096,
    "4096B": 4096,
    "300GiB": 300 * GIB,
    "300 GiB": 300 * GIB,
    "  300gib ": 300 * GIB,
    "64 GB": 64 * 10**9,
    "64kb": 64000,
    "512M": 512 * MIB,
    "512m": 512 * MIB,
    "1.5GiB": 3 * GIB // 2,
    "0.1TiB": TIB // 10,
    "2t": 2 * TIB,
    "1PiB": 1024 * TIB,
}
NO_SIZE = ("300 gigs", "", " ", "GiB", "-", "1e9", "0x1000", "1,5GiB", "1 2", "3GiB 4", "nan", "inf", "٣GiB")
NOT_POSITIVE = (0, -1, -GIB, "0", "0GiB", "0.0", "0.1B")


@pytest.mark.parametrize(("text", "size_bytes"), GOOD.items(), ids=map(str, GOOD))
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", [*NO_SIZE, "-1", "-300GiB", None, [], "9" * 5000])
def test_what_is_no_size(text):
    with pytest.raises(InvalidRequest) as caught:
        parse_size(text)
    assert str(caught.value) == (
        f"size {text!r} is not a size; write a whole number of bytes or a number with a unit, like"
        " 300GiB, 64 GB (10^9 bytes) or 512M (2^20 bytes)"
    )


@pytest.mark.parametrize("size", NOT_POSITIVE)
def test_sizes_that_are_not_greater_than_zero(size):
    with pytest.raises(InvalidRequest) as caught:
        parse_size(size, "window")
    assert str(caught.value) == f"window {size!r} must be greater than zero, like 300GiB"


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_size(value):
    with pytest.raises(InvalidRequest, match="is not a size; write it like 300GiB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (100, "100 B"),
        (1536, "1.5 KiB"),
        (300 * GIB, "300 GiB"),
        (512 * GIB, "512 GiB"),
        (5000 * TIB, "5000 TiB"),
        (-2 * MIB, "-2 MiB"),
        (0.55 * GIB, "563.2 MiB"),
    ],
)
def test_sizes_as_people_read_them(size_bytes, text):
    assert format_size(size_bytes) == text


@given(st.integers(1, 1 << 60))
def test_what_is_written_is_read_back_as_exactly_as_it_was_written(size_bytes):
    text = format_size(size_bytes)
    unit = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}[text.split()[1]]
    assert abs(parse_size(text) - size_bytes) <= unit * 0.05 + 1
    if size_bytes % unit == 0:
        assert parse_size(text) == size_bytes


@given(st.integers(1, 1 << 60))
def test_bytes_as_text_are_the_bytes(size_bytes):
    assert parse_size(str(size_bytes)) == parse_size(f"{size_bytes} B") == size_bytes


@given(st.text())
def test_any_text_is_a_size_or_refused(text):
    try:
        size_bytes = parse_size(text)
    except InvalidRequest:
        return
    assert size_bytes > 0


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 40))
def test_round_up_is_the_smallest_multiple_that_is_enough(value, multiple):
    rounded = round_up(value, multiple)
    assert rounded % multiple == 0
    assert value <= rounded < value + multiple


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0.0 ms"), (0.0204, "0.020 ms"), (0.1, "0.1 ms"), (31.04, "31.0 ms")],
)
def test_a_short_time_is_not_rounded_to_nothing(milliseconds, text):
    assert format_milliseconds(milliseconds) == text
