# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and paragraphs as text: they fit the width, figures stay whole, words break at separators."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.texttable import WIDTH, table, width_of, wrapped

HEADS = ("Instance", "Page tables", "Remedy")
RIGHT = ("Page tables",)


@pytest.mark.parametrize(
    ("text", "width"),
    [("main", 4), ("数据库", 6), ("e\u0301", 1), ("\uff4d", 2), ("a\u200bb", 2), ("", 0)],
)
def test_a_width_is_what_a_terminal_shows(text: str, width: int) -> None:
    assert width_of(text) == width


def test_what_fits_is_one_line_a_row_with_figures_at_the_right() -> None:
    rows = [("main", "1.5 GiB", "huge pages"), ("数据库", "12 MiB", "none")]
    assert table(HEADS, rows, RIGHT) == [
        "Instance  Page tables  Remedy",
        "main          1.5 GiB  huge pages",
        "数据库         12 MiB  none",
    ]


def test_a_column_of_text_gives_way_and_breaks_between_words() -> None:
    rows = [("main", "1.5 GiB", "huge pages of 2 MiB, after a restart of the server")]
    assert table(HEADS, rows, RIGHT, width=40) == [
        "             Page",
        "Instance   tables  Remedy",
        "main      1.5 GiB  huge pages of 2 MiB,",
        "                   after a restart of",
        "                   the server",
    ]


def test_a_head_is_broken_before_a_cell_is() -> None:
    rows = [("main", "1.5 GiB", "huge pages of 2 MiB")]
    assert table(HEADS, rows, RIGHT, width=40) == [
        "               Page",
        "Instance     tables  Remedy",
        "main        1.5 GiB  huge pages of 2 MiB",
    ]


def test_a_long_path_breaks_behind_its_separators() -> None:
    rows = [("/run/mshare/production/billing-database", "1.5 GiB", "none")]
    drawn = table(HEADS, rows, RIGHT, width=40)
    assert [line.split("  ")[0].strip() for line in drawn[2:]] == [
        "/run/mshare/production/",
        "billing-database",
    ]


def test_columns_that_cannot_stand_beside_each_other_become_paragraphs() -> None:
    rows = [("a" * 30, "1.5 GiB", "huge pages of 2 MiB"), ("b", "2 GiB", "none")]
    assert table(HEADS, rows, RIGHT, width=36) == [
        "a" * 30,
        "  Page tables  1.5 GiB",
        "  Remedy       huge pages of 2 MiB",
        "",
        "b",
        "  Page tables  2 GiB",
        "  Remedy       none",
    ]


def test_colours_take_no_room() -> None:
    rows = [("main", "1 GiB", "fine"), ("b", "20 GiB", "at risk")]
    painted = table(HEADS, rows, RIGHT, paint=lambda text, cell: f"\x1b[1m{text}\x1b[0m")
    plain = [re.sub(r"\x1b\[\d*m", "", line) for line in painted]
    assert plain == table(HEADS, rows, RIGHT)


def test_a_table_without_rows_has_its_heads() -> None:
    assert table(HEADS, []) == ["Instance  Page tables  Remedy"]


def test_a_paragraph_is_indented_from_its_second_line() -> None:
    assert wrapped("one two three", 9, indent="  ") == ["one two", "  three"]


WORD = st.text(alphabet="abcdefgh/-._数", min_size=1, max_size=12)
CELL = st.lists(WORD, min_size=1, max_size=6).map(" ".join)


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=5), st.integers(30, 160))
def test_nothing_is_lost_nothing_is_wider_than_asked(rows: list[tuple[str, str, str]], width: int) -> None:
    drawn = table(HEADS, rows, (), width)
    assert max(map(width_of, drawn)) <= width
    shown = re.sub(r"\s", "", "".join(drawn))
    for cell in (cell for row in rows for cell in row):
        for piece in re.findall(r"[a-h数]+", cell):
            assert piece in shown


@given(CELL, st.integers(20, WIDTH))
def test_words_break_at_separators_only(text: str, width: int) -> None:
    broken = wrapped(text, width)
    assert "".join(broken).replace(" ", "") == text.replace(" ", "")
    for line, following in zip(broken, broken[1:]):
        assert line[-1] in "/-._" or f"{line} {following}" in text
