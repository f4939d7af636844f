# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An object inside a region, and its normal form in specs, status files and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from ..kernel import abi

_PROTECTIONS = {"r": abi.PROT_READ, "rw": abi.PROT_READ | abi.PROT_WRITE}


@dataclass(frozen=True)
class Mapping:
    """An object inside a region."""

    offset: int
    size_bytes: int
    kind: str = "anonymous"
    """"anonymous", "hugetlb" or "file"."""
    prot: int = abi.PROT_READ | abi.PROT_WRITE
    path: str | None = None
    """The file, for kind "file"."""
    object_offset: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes


def protection(text: str) -> int:
    """PROT_ bits for "r" or "rw"."""
    if text not in _PROTECTIONS:
        raise InvalidRequest(f"protection {text!r} is unknown; write r or rw")
    return _PROTECTIONS[text]


def protection_name(prot: int) -> str:
    """ "r" or "rw" for PROT_ bits."""
    return "rw" if prot & abi.PROT_WRITE else "r"


def mapping_to_dict(mapping: Mapping) -> dict[str, Any]:
    """The normal form of a mapping in specs, status files and answers."""
    entry: dict[str, Any] = {
        "kind": mapping.kind,
        "offset": mapping.offset,
        "size": mapping.size_bytes,
        "protection": protection_name(mapping.prot),
    }
    if mapping.kind == "file":
        entry.update(path=mapping.path, file_offset=mapping.object_offset)
    return entry
