# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts in the code, as they are written there: what is filled in at run time is an ellipsis.

`python -m checks.sentences` lists them, to be copied into docs/troubleshooting.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from checks.layout import ROOT

FILLED_IN = "…"
CODE = (
    ROOT / "lib" / "mshare",
    ROOT / "plugins" / "modules",
    ROOT / "plugins" / "module_utils" / "_module.py",
    ROOT / "plugins" / "plugin_utils",
)
TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
# In C, literals beside each other are one text, and printf's formats are filled in.
C_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')
C_SEAM = re.compile(r'"\s*"')
C_FORMAT = re.compile(r"%[-.0-9*]*(?:l|ll|z)?[a-z]")


def one_line(text: str) -> str:
    return " ".join(text.split())


def written(node: ast.expr) -> str | None:
    """The text that an expression writes; None for one that is not a text."""
    if isinstance(node, ast.FormattedValue):
        return counted(node.value)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or FILLED_IN for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [written(node.left), written(node.right)]
        return None if sides == [None, None] else "".join(side or FILLED_IN for side in sides)
    return None


def counted(node: ast.expr) -> str | None:
    """A number with its noun, `units.counted(count, noun, plural)`, in the plural."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "counted":
        noun, *plural = (ast.literal_eval(word) for word in node.args[1:])
        return f"{FILLED_IN} {plural[0] if plural else noun + 's'}"
    return None


def in_python(path: Path) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.expr) and node not in docstrings:
            text = written(node)
            if text is not None:
                yield one_line(text)


def in_c(path: Path) -> Iterator[str]:
    for text in C_TEXT.findall(path.read_text()):
        whole = C_SEAM.sub("", text)[1:-1].replace('\\"', '"')
        yield one_line(C_FORMAT.sub(FILLED_IN, whole))


def in_tasks(path: Path) -> Iterator[str]:
    # Folded texts and all: only fragments of it are looked for.
    yield one_line(TEMPLATE.sub(FILLED_IN, path.read_text()))


def sentences() -> set[str]:
    """Every text in the library, the modules and the roles' tasks."""
    texts: set[str] = set()
    for place in CODE:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            texts.update(in_python(path))
    for path in sorted((ROOT / "lib" / "mshare" / "preload" / "src").glob("*.c")):
        texts.update(in_c(path))
    for path in sorted((ROOT / "roles").glob("*/tasks/*.yml")):
        texts.update(in_tasks(path))
    return texts


if __name__ == "__main__":
    print("\n".join(sorted(text for text in sentences() if text.count(" ") > 4)))
