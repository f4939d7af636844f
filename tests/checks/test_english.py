# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The English of what users read: numbers agree with their nouns, and some phrases are not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.layout import ROOT
from checks.sentences import CODE, sentences
from mshare.units import counted

# Nouns that a number stands before; `units.counted` chooses between singular and plural.
_NOUNS = (
    "backends|characters|clients|clusters|commands|connections|containers|databases|entries|errors|files|hosts"
    "|instances|kernels|lines|mappings|mounts|names|owners|pages|processes|programs|regions|samples|seconds|segments"
    "|servers|tables|tasks|threads|units|users|workers"
)
_PLURAL = re.compile(rf"\s(?:[a-z]+ )?(?:{_NOUNS})\b")
_THINGS = "choice|database|file|interval|JSON|list|multiple|number|owner|region|share|size|survey|text"
# Texts in which what stands before the noun is not a number, or is at least 2.
_NO_NUMBERS = (
    "{where} huge pages",
    "{page} pages ",
    "{self.compared.since} page tables",
    "{case.instance.kind} workers",
    "{path} names",
    "{self.clients} clients needs both",
    "{count} clients cannot be started",
)
_PHRASES = {
    r"\bshall\b": "use must, should or will",
    r"\bfor good\b": "use permanently",
    r"\bbeforehand\b": "use first, or before",
    r"\bheed": "use take effect, or observe",
    r"\b(?i:whoever)\b": "name the user or process that does it",
    r"\bof ours\b": "name what it belongs to, such as mshare or the library",
    r"(?<!\d )\bso many\b": "use that number of",
    r"\bmere look\b": "use read",
    rf"\b(?:[Ii]s|[Aa]re|[Ww]as|[Ww]ere) no (?:[a-z]+ )?(?:{_THINGS})\b": "use is not a ...",
}
"""What is not used -> what to use."""
_THERE = re.compile(r"\b[Tt]here (?:is|are|was|were) no\b")
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "examples/**/*.md",
        "examples/**/*.yml",
        "roles/**/*.md",
        "roles/**/*.yml",
        "playbooks/*.yml",
    )
    for path in ROOT.glob(pattern)
)


def phrases(text: str) -> list[str]:
    """What is not plain English in a text, with what to use."""
    plain = _THERE.sub("", text)
    return [
        f"{match[0]!r}: {better}"
        for phrase, better in _PHRASES.items()
        for match in re.finditer(phrase, plain)
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_phrases_in_documents(path: Path) -> None:
    assert phrases(path.read_text()) == []


def test_phrases_in_messages_and_in_the_documentation_of_modules() -> None:
    assert [(sentence, bad) for sentence in sorted(sentences()) if (bad := phrases(sentence))] == []


def test_phrases_are_recognised() -> None:
    text = "A file of ours shall be no region, whoever made it; this is no JSON, there is no file."
    assert [line.partition(":")[0] for line in phrases(text)] == [
        "'shall'",
        "'whoever'",
        "'of ours'",
        "'is no JSON'",
    ]


def uncounted(path: Path) -> Iterator[str]:
    """Texts in which a number stands before a plural noun without `counted`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield from _uncounted(node, path)


def _uncounted(text: ast.JoinedStr, path: Path) -> Iterator[str]:
    for value, after in zip(text.values, text.values[1:]):
        if (
            isinstance(value, ast.FormattedValue)
            and isinstance(after, ast.Constant)
            and _PLURAL.match(str(after.value))
            and _is_number(value.value)
        ):
            shown = f"{{{ast.unparse(value.value)}}}{after.value}"
            if not shown.startswith(_NO_NUMBERS):
                yield f"{path.relative_to(ROOT)}:{text.lineno}: {shown}"


def _is_number(node: ast.expr) -> bool:
    """What may be a number: not a size, a quotation, or a constant."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "len"
    if isinstance(node, ast.Name):
        return not node.id.isupper()
    return True


CODE_FILES = sorted(path for place in CODE for path in (place.rglob("*.py") if place.is_dir() else [place]))


def test_numbers_agree_with_their_nouns() -> None:
    assert [text for path in CODE_FILES for text in uncounted(path)] == []


def test_counted() -> None:
    assert [counted(count, "client") for count in (0, 1, 2, 1500)] == [
        "0 clients",
        "1 client",
        "2 clients",
        "1,500 clients",
    ]
    assert [counted(count, "process is", "processes are") for count in (1, 2)] == [
        "1 process is",
        "2 processes are",
    ]
