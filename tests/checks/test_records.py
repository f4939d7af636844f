# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed records cross the borders of the library's files: a mapping of anything has a reason beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checks.layout import ROOT

LIBRARY = ROOT / "lib" / "mshare"
_ANYTHING = re.compile(r"\b(?:dict|Dict|Mapping|MutableMapping)\[str, ?(?:typing\.)?Any\]")
_REASON = re.compile(r"# Any: \w")


def unexplained(text: str) -> list[int]:
    """The lines with a mapping of anything and without a comment "# Any: why" there or on the line before."""
    lines = text.splitlines()
    return [
        number + 1
        for number, line in enumerate(lines)
        if _ANYTHING.search(line) and not any(map(_REASON.search, lines[max(0, number - 1) : number + 1]))
    ]


def test_every_mapping_of_anything_is_explained() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(LIBRARY.rglob("*.py"))
        for number in unexplained(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "make it a frozen dataclass, or say why not (# Any: ...): " + ", ".join(wrong)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x: dict[str, Any]", [1]),
        ("x: Mapping[str,Any] | None", [1]),
        ("# Any: keys of a spec file\nx: dict[str, Any]\n\ny: dict[str, Any]", [4]),
        ("x: dict[str, Any]  # Any: click's own", []),
        ("# Any:\nx: dict[str, Any]", [2]),
        ("x: dict[str, object]", []),
    ],
)
def test_what_the_check_finds(text: str, lines: list[int]) -> None:
    assert unexplained(text) == lines


def test_the_library_is_where_the_check_looks() -> None:
    assert Path(LIBRARY, "record.py").is_file()
