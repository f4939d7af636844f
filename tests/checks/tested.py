# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which test belongs to which module: tests/unit has the folders of lib/mshare, and every module a test there."""

from __future__ import annotations

import ast
from pathlib import Path

from checks.layout import ROOT

LIBRARY, UNIT = ROOT / "lib" / "mshare", ROOT / "tests" / "unit"
# Generated, and compared with what generates it; run by `python -m mshare` only; makes the former.
WITHOUT = {"kernel._libc", "kernel.build_libc", "__main__"}


def library_modules() -> list[str]:
    """The modules of the library below `mshare`, without packages: "region.spec"."""
    files = (path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("*.py"))
    names = (".".join(path.parts) for path in files if path.name != "__init__")
    return sorted(name for name in names if name not in WITHOUT)


def imported(path: Path) -> set[str]:
    """What a test imports of the library, below `mshare`: modules, and names that may be modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mshare.") for name in found if name.startswith("mshare.")}


def tests_of(module: str) -> list[Path]:
    """The unit tests in the folder of a module that import it."""
    folder = UNIT.joinpath(*module.split(".")[:-1])
    return sorted(path for path in folder.glob("test_*.py") if module in imported(path))


def untested() -> list[str]:
    """The modules that no test in their folder imports."""
    return [module for module in library_modules() if not tests_of(module)]


if __name__ == "__main__":
    print("\n".join(untested()))
