# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bytes that an owner leaves and clients verify."""

from __future__ import annotations

import pytest

from mshare.region.pattern import Pattern, touch

PAGE = 4096


def pattern(salt=7, pages=10, offset=2 * PAGE) -> Pattern:
    return Pattern(salt, offset, pages * PAGE, PAGE)


def test_what_was_written_is_found():
    memory = memoryview(bytearray(16 * PAGE))
    pattern().write(memory)
    assert pattern().verify(memory, 10 * PAGE) == 0


def test_only_the_first_byte_of_its_own_pages_is_written():
    memory = memoryview(bytearray(16 * PAGE))
    pattern().write(memory)
    written = [place for place, byte in enumerate(memory) if byte]
    assert written == [(2 + page) * PAGE for page in range(10)]


@pytest.mark.parametrize("pages", [0, 1, 9])
def test_each_page_that_differs_is_counted(pages):
    memory = memoryview(bytearray(16 * PAGE))
    pattern().write(memory)
    for page in range(pages):
        memory[(2 + page) * PAGE] ^= 0xFF
    assert pattern().verify(memory, 10 * PAGE) == pages


def test_memory_of_an_earlier_owner_is_not_taken_for_this_ones():
    memory = memoryview(bytearray(16 * PAGE))
    pattern(salt=7).write(memory)
    assert pattern(salt=8).verify(memory, 10 * PAGE) == 10


def test_touching_changes_nothing():
    content = bytes(range(256)) * (16 * PAGE // 256)
    memory = memoryview(bytearray(content))
    touch(memory, 0, len(memory), PAGE)
    assert memory.tobytes() == content
