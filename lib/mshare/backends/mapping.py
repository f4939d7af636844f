# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An object inside a region, and its normal form in specs, status files and answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InvalidRequest
from ..kernel import abi

Kind = Literal["anonymous", "hugetlb", "file"]

_PROTECTIONS = {"r": abi.PROT_READ, "rw": abi.PROT_READ | abi.PROT_WRITE}


@dataclass(frozen=True)
class Mapping:
    """An object inside a region."""

    offset: int
    size_bytes: int
    kind: Kind = "anonymous"
    prot: int = abi.PROT_READ | abi.PROT_WRITE
    path: str | None = None
    """The file, for kind "file"."""
    object_offset: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes

    def part(self, offset: int, end: int) -> Mapping | None:
        """What of it lies in [offset, end)."""
        start, stop = max(offset, self.offset), min(end, self.end)
        if start >= stop:
            return None
        # Anonymous memory lies in the region itself at its own offset; other objects have theirs.
        skipped_bytes = 0 if self.kind == "anonymous" else start - self.offset
        object_offset = self.object_offset + skipped_bytes
        return replace(self, offset=start, size_bytes=stop - start, object_offset=object_offset)

    def without(self, offset: int, end: int) -> list[Mapping]:
        """What sticks out on either side once [offset, end) is unmapped."""
        sides = self.part(self.offset, offset), self.part(end, self.end)
        return [side for side in sides if side is not None]


def subtract(whole: tuple[int, int], parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of the range `whole` without the ranges `parts`."""
    left = [whole]
    for start, end in parts:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, start)), (max(low, end), high))
            if piece[0] < piece[1]
        ]
    return left


def protection(text: object) -> int:
    """PROT_ bits for "r" or "rw"."""
    if not isinstance(text, str) or text not in _PROTECTIONS:
        raise InvalidRequest(f"protection {text!r} is unknown; write r or rw")
    return _PROTECTIONS[text]


def protection_name(prot: int) -> str:
    """ "r" or "rw" for PROT_ bits."""
    return "rw" if prot & abi.PROT_WRITE else "r"


@dataclass(frozen=True)
class MappingEntry:
    """A mapping in its normal form: as specs, status files and answers have it."""

    kind: Literal["anonymous", "hugetlb", "file"]
    offset: int
    """In the region."""
    size: int
    """In bytes."""
    protection: Literal["r", "rw"]
    path: str | None = None
    file_offset: int | None = None
    """With a path."""

    @classmethod
    def of(cls, mapping: Mapping) -> MappingEntry:
        name: Literal["r", "rw"] = "rw" if mapping.prot & abi.PROT_WRITE else "r"
        file_offset = mapping.object_offset if mapping.kind == "file" else None
        return cls(mapping.kind, mapping.offset, mapping.size_bytes, name, mapping.path, file_offset)

    def mapping(self) -> Mapping:
        return Mapping(
            self.offset,
            self.size,
            self.kind,
            protection(self.protection),
            self.path,
            self.file_offset or 0,
        )

    def to_fields(self) -> dict[str, object]:
        """Only a file has a path and a place in it."""
        return {key: value for key, value in self.__dict__.items() if value is not None}
