# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fenced blocks of the documentation, for the tests that type them.

A block has the key "PAGE: HEADING", of the nearest heading above it; blocks under one heading share a key. A
test names the keys that it types; `checks/test_blocks.py` compares all keys with these and with NOT_TYPED.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SHELL = ("", "sh")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

_POOL = "it reserves huge pages, and test hosts share the machine's pool"
NOT_TYPED = {
    "CONTRIBUTING.md: Set up": "it installs the tests from PyPI and runs them: CI does that",
    "docs/command-line.md: `mshare huge-pages`": _POOL,
    "docs/huge-pages.md: Huge pages for the databases of a host": _POOL,
    "roles/huge_pages/README.md: Role dbmem.mshare.huge_pages": _POOL,
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

    @property
    def answer(self) -> list[str]:
        """The lines that a block with prompts shows as the answer."""
        return [line for line in self.text.splitlines() if not line.startswith("$ ")]


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
    blocks = []
    for fence in fences:
        above = [match[1] for match in headings if match.start() < fence.start()]
        key = f"{page.relative_to(ROOT)}: {above[-1] if above else ''}"
        blocks.append(Block(key, fence[2], fence[3]))
    return blocks


def shell_blocks(*keys: str) -> list[Block]:
    """The blocks of commands of some keys, in the order of these."""
    return _blocks(keys, SHELL)


def yaml_blocks(*keys: str) -> list[Block]:
    return _blocks(keys, ("yaml",))


def script(*keys: str) -> str:
    """The commands of some keys, as one shell script."""
    return "".join(block.commands for block in shell_blocks(*keys))


def _blocks(keys: Iterable[str], languages: Collection[str]) -> list[Block]:
    chosen = []
    for key in keys:
        page, __, __ = key.partition(": ")
        every = blocks_of(ROOT / page)
        blocks = [block for block in every if block.key == key and block.language in languages]
        assert blocks, f"there is no block {key!r}"
        chosen += blocks
    return chosen


def plays(blocks: Iterable[Block]) -> list[dict[str, Any]]:
    """YAML blocks as one playbook: indented tasks go on with the play before them, others begin a play."""
    made: list[dict[str, Any]] = []
    for block in blocks:
        entries = yaml.safe_load(block.text)
        if "hosts" in entries[0]:
            made += entries
        elif block.text.startswith(" ") and made:
            made[-1].setdefault("tasks", []).extend(entries)
        else:
            made.append({"hosts": "databases", "become": True, "tasks": entries})
    return made
