# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every block of the documentation that a reader types is typed by a test, or has the one reason why not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from checks.layout import ROOT
from rig import documents

TYPISTS = {"script", "shell_blocks", "yaml_blocks"}
"""The functions of rig/documents.py that hand out blocks by their keys."""
# Python is run by tests/unit/test_docs.py, text is what a program answers.
LANGUAGES = {*documents.SHELL, "yaml", "python", "text"}


def typed_in(path: Path) -> Iterator[tuple[str, str]]:
    """The keys of which a test takes the blocks, each with their kind."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "documents"
            and node.func.attr in TYPISTS
        ):
            kind = "yaml" if node.func.attr == "yaml_blocks" else "shell"
            yield from ((word.value, kind) for word in node.args if isinstance(word, ast.Constant))


def typed() -> set[tuple[str, str]]:
    return {key for path in ROOT.glob("tests/**/test_*.py") for key in typed_in(path)}


def to_type() -> set[tuple[str, str]]:
    """The keys of all blocks that a reader types, each with their kind."""
    return {
        (block.key, "yaml" if block.language == "yaml" else "shell")
        for page in documents.pages()
        for block in documents.blocks_of(page)
        if block.language in (*documents.SHELL, "yaml")
    }


def test_every_block_is_typed_or_has_a_reason() -> None:
    untyped = to_type() - typed()
    assert {key for key, __ in untyped} - set(documents.NOT_TYPED) == set()


def test_what_is_typed_or_excepted_is_there() -> None:
    assert typed() - to_type() == set()
    assert set(documents.NOT_TYPED) - {key for key, __ in to_type()} == set()


def test_no_block_is_both() -> None:
    assert {key for key, __ in typed()} & set(documents.NOT_TYPED) == set()


def test_lines_left_out_are_there() -> None:
    lines = [
        line
        for page in documents.pages()
        for block in documents.blocks_of(page)
        for line in block.text.splitlines()
    ]
    lost = [start for start in documents.NOT_TYPED_LINES if not any(line.startswith(start) for line in lines)]
    assert lost == []


def test_languages_are_those_that_have_a_test() -> None:
    every = {block.language for page in documents.pages() for block in documents.blocks_of(page)}
    assert every - LANGUAGES == set()


def test_a_comment_in_a_block_is_not_a_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```\n# a comment\nls\n```\n\n## Second\n\n  ```yaml\n  - a\n  ```\n")
    documents_root, documents.ROOT = documents.ROOT, tmp_path
    try:
        blocks = documents.blocks_of(page)
    finally:
        documents.ROOT = documents_root
    assert [(block.key, block.language) for block in blocks] == [
        ("page.md: Title", ""),
        ("page.md: Second", "yaml"),
    ]
