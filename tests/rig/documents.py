# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fenced blocks of the documentation, for the tests that type them.

A block has the key "PAGE: HEADING", of the nearest heading above it; blocks under one heading share a key. A
test names the keys that it types; `checks/test_blocks.py` compares all keys with these and with NOT_TYPED.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SHELL = ("", "sh")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

NOT_TYPED = {
    "CONTRIBUTING.md: Set up": "it installs the tests from PyPI and runs them: CI does that",
}
"""Key -> the one reason why no test types these blocks."""
NOT_TYPED_LINES = {
    "make test": "it is what runs the tests",
    "mshare collapse postgresql@15-main.service --follow": "the hosts have no systemd",
}
"""Beginning of a line -> the one reason why it is left out of the blocks that are typed."""


@dataclass(frozen=True)
class Block:
    key: str
    language: str
    text: str

    @property
    def commands(self) -> str:
        """What a reader types: of a block with prompts, the lines behind them."""
        lines = self.text.splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        kept = [line for line in prompted or lines if not line.startswith(tuple(NOT_TYPED_LINES))]
        return "".join(f"{line}\n" for line in kept)


def pages() -> list[Path]:
    """The pages for users: README, CONTRIBUTING, docs, and what the roles and examples say of themselves."""
    patterns = ("*.md", "docs/*.md", "roles/*/README.md", "examples/**/*.md")
    return sorted(page for pattern in patterns for page in ROOT.glob(pattern))


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order, in whatever language."""
    text = page.read_text()
    fences = list(_FENCE.finditer(text))
    # A comment in a block is not a heading.
    headings = [
        match
        for match in _HEADING.finditer(text)
        if not any(fence.start() < match.start() < fence.end() for fence in fences)
    ]
    found = []
    for fence in fences:
        above = [match[1] for match in headings if match.start() < fence.start()]
        key = f"{page.relative_to(ROOT)}: {above[-1] if above else ''}"
        found.append(Block(key, fence[2], fence[3]))
    return found


def blocks(key: str) -> list[Block]:
    """The shell and YAML blocks of a key."""
    page, __, __ = key.partition(": ")
    found = [
        block for block in blocks_of(ROOT / page) if block.key == key and block.language in (*SHELL, "yaml")
    ]
    assert found, f"there is no block {key!r}"
    return found


def script(*keys: str) -> str:
    """The commands of some keys, as one shell script."""
    return "".join(block.commands for key in keys for block in blocks(key) if block.language in SHELL)


def play(*keys: str) -> list[dict[str, Any]]:
    """The YAML of some keys, as one playbook: tasks without a play belong to the play before them."""
    plays: list[dict[str, Any]] = []
    for key in keys:
        for block in blocks(key):
            entries = yaml.safe_load(block.text) if block.language == "yaml" else []
            if entries and "hosts" in entries[0]:
                plays += entries
            elif entries:
                plays = plays or [{"hosts": "databases", "become": True}]
                plays[-1].setdefault("tasks", []).extend(entries)
    return plays


def without_typed(keys: Iterable[str]) -> set[str]:
    """Keys of shell and YAML blocks that are neither among these nor in NOT_TYPED."""
    every = {block.key for page in pages() for block in blocks_of(page) if block.language in (*SHELL, "yaml")}
    return every - set(keys) - set(NOT_TYPED)
