# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that an owner writes to a region for its clients to verify, one per touched page.

Written and read through strided views, so that touching 150,000 pages takes few calls into C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_PAGES_AT_ONCE = 4096


@dataclass(frozen=True)
class Part:
    """Some pages of a pattern."""

    start: int
    stop: int
    """Offsets of the first byte, and behind the last one."""
    stride_bytes: int
    expected: bytes
    """One for each page."""

    def view(self, memory: memoryview) -> memoryview:
        return memory[self.start : self.stop : self.stride_bytes]

    def write(self, memory: memoryview) -> None:
        self.view(memory)[:] = self.expected


@dataclass(frozen=True)
class Pattern:
    """Page number n, at n times the stride, starts with a byte that depends on n and the salt."""

    salt: int
    """Different for each owner, so that memory of an earlier owner is not accepted."""
    offset: int
    span_bytes: int
    stride_bytes: int

    def pages(self, span_bytes: int) -> int:
        """How many pages of the first `span_bytes` hold the pattern."""
        return -(-min(span_bytes, self.span_bytes) // self.stride_bytes)

    def _expected(self, first: int, count: int) -> bytes:
        # 251 is prime, so neighbours differ, and so do pages at a distance of a power of two.
        return bytes((self.salt + page) % 251 for page in range(first, first + count))

    def parts(self, span_bytes: int | None = None) -> Iterator[Part]:
        """The pattern of the first `span_bytes` (by default of all), some thousand pages at a time."""
        pages = self.pages(self.span_bytes if span_bytes is None else span_bytes)
        for first in range(0, pages, _PAGES_AT_ONCE):
            count = min(_PAGES_AT_ONCE, pages - first)
            start = self.offset + first * self.stride_bytes
            stop = start + (count - 1) * self.stride_bytes + 1
            yield Part(start, stop, self.stride_bytes, self._expected(first, count))

    def write(self, memory: memoryview) -> None:
        """Touch every page of the span and write the pattern."""
        for part in self.parts():
            part.write(memory)

    def verify(self, memory: memoryview, span_bytes: int) -> int:
        """Touch the pages of the first `span_bytes`; returns how many do not hold the pattern."""
        wrong = 0
        for part in self.parts(span_bytes):
            content, expected = part.view(memory).tobytes(), part.expected
            if content != expected:
                wrong += sum(a != b for a, b in zip(content, expected))
        return wrong


def touch(memory: memoryview, offset: int, span_bytes: int, stride_bytes: int) -> None:
    """Read one byte per stride: a read fault makes a page present and does not change it."""
    for start in range(offset, offset + span_bytes, stride_bytes * _PAGES_AT_ONCE):
        stop = min(start + stride_bytes * _PAGES_AT_ONCE, offset + span_bytes)
        memory[start:stop:stride_bytes].tobytes()
