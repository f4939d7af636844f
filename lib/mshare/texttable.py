# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and paragraphs as lines of text that fit a width.

The command line and the modules' summaries are drawn here, so this needs the standard library only: a
managed host has nothing else. Widths count columns of a terminal, in which an East Asian character takes
two.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from .printable import printable

WIDTH = 80
"""The width where there is no terminal."""
_GAP = "  "
_INDENT = "  "
# A line may end at a space, or behind one of these inside a long name or path.
_PIECES = re.compile(r"[^\s/_.:,;@=+-]*[/_.:,;@=+-]+|[^\s/_.:,;@=+-]+|\s+")
Paint = Callable[[str, str], str]
"""(text as it is laid out, the whole cell) -> the text with its colours."""


def plain(text: str, cell: str) -> str:
    """No colours."""
    return text


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """A text as lines of at most `width`; all but the first are indented further than the first.

    It is broken at spaces; a longer word at its separators, so that a path or name stays readable. What
    has neither is never broken, and then its line is longer.
    """
    start = text[: len(text) - len(text.lstrip())]
    lines: list[str] = []
    line, space, empty = start, "", True

    def fits(piece: str) -> bool:
        return empty or width_of(line + space + piece) <= width

    for word in map(printable, text.split()):
        whole = width_of(start + indent + word) <= width
        for piece in [word] if whole else _PIECES.findall(word):
            if not fits(piece):
                lines.append(line)
                line, space = start + indent, ""
            line, space, empty = line + space + piece, "", False
        space = " "
    return [*lines, line]


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[str] = (),
    width: int = WIDTH,
    paint: Paint = plain,
    paint_head: Callable[[str], str] = str,
) -> list[str]:
    """Lines of a table; the columns named in `right` hold figures, which are never broken.

    Where the columns do not fit beside each other, each row becomes a paragraph: its first cell, then the
    others below each other with their heads.
    """
    # Cells hold names that others chose: each stays in its row.
    rows = [tuple(map(printable, row)) for row in rows]
    figures = [head in right for head in heads]
    widths = _widths(heads, rows, figures, width)
    if widths is None:
        return _paragraphs(heads, rows, width, paint, paint_head)
    broken_heads = [wrapped(head, width) for head, width in zip(heads, widths)]
    height = max(map(len, broken_heads))
    # A head stands at the foot of its cell, just above the figures.
    raised = [[""] * (height - len(head)) + head for head in broken_heads]
    lines = _side_by_side(raised, widths, figures, [lambda text, __: paint_head(text)] * len(heads), heads)
    for row in rows:
        broken = [
            [cell] if figure else wrapped(cell, width) for cell, width, figure in zip(row, widths, figures)
        ]
        lines += _side_by_side(broken, widths, figures, [paint] * len(row), row)
    return lines


def _side_by_side(
    broken: Sequence[Sequence[str]],
    widths: Sequence[int],
    figures: Sequence[bool],
    painters: Sequence[Paint],
    cells: Sequence[str],
) -> list[str]:
    """The lines of one row, whose cells are broken into lines already."""
    lines = []
    for parts in itertools.zip_longest(*broken, fillvalue=""):
        drawn = []
        for text, width, figure, painter, cell in zip(parts, widths, figures, painters, cells):
            padding = " " * (width - width_of(text))
            painted = painter(text, cell) if text else ""
            drawn.append(padding + painted if figure else painted + padding)
        lines.append(_GAP.join(drawn).rstrip())
    return lines


def _widths(
    heads: Sequence[str], rows: Sequence[Sequence[str]], figures: Sequence[bool], width: int
) -> list[int] | None:
    """The columns' widths, or None where even the narrowest do not fit."""
    columns = list(zip(heads, zip(*rows) if rows else [()] * len(heads), figures))
    widths = [max(map(width_of, (head, *cells))) for head, cells, __ in columns]
    with_broken_heads = [max([_longest_piece(head), *map(width_of, cells)]) for head, cells, __ in columns]
    narrowest = [
        max([_longest_piece(head), *map(width_of if figure else _longest_piece, cells)])
        for head, cells, figure in columns
    ]
    room = width - len(_GAP) * (len(heads) - 1)
    if sum(narrowest) > room:
        return None
    # A head in two lines costs the reader less than cells in two lines.
    for least in (with_broken_heads, narrowest):
        while sum(widths) > room:
            giving = [number for number in range(len(widths)) if widths[number] > least[number]]
            if not giving:
                break
            widths[max(giving, key=lambda number: widths[number])] -= 1
    return widths


def _longest_piece(text: str) -> int:
    return max((width_of(piece) for piece in _PIECES.findall(text)), default=0)


def _paragraphs(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    paint: Paint,
    paint_head: Callable[[str], str],
) -> list[str]:
    label = max(map(width_of, heads[1:]), default=0)
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        lines += map(paint_head, wrapped(row[0], width))
        for head, cell in zip(heads[1:], row[1:]):
            before = _INDENT + head + " " * (label - width_of(head)) + _GAP
            for number, text in enumerate(wrapped(cell, max(width - width_of(before), 1))):
                start = " " * width_of(before) if number else before
                lines.append((start + paint(text, cell)).rstrip())
    return lines
