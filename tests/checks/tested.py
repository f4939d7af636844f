# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which test belongs to which module: tests/unit has the folders of lib/mshare."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from checks.layout import ROOT

PLACES = (
    ("`lib/mshare/FOLDER/`", "`tests/unit/FOLDER/`"),
    ("`lib/mshare/*.py`", "`tests/unit/`, `test_` and the module's name"),
    ("`lib/mshare/preload/src/`", "`tests/unit/preload/`, `tests/integration/test_preload*.py`"),
    (
        "a backend's behaviour",
        "`tests/conformance/cases.py`, which both backends and the rig's FUSE msharefs run",
    ),
    (
        "`plugins/`",
        "`tests/unit/plugins/`, `tests/integration/test_convergence.py`, `test_results.py`, `test_lists.py`",
    ),
    (
        "`lib/mshare/postgresql/`",
        "also `tests/integration/test_postgresql*.py`, `tests/vm/test_postgresql.py`",
    ),
    (
        "`lib/mshare/survey/`, `plan/`, `report/`",
        "also `tests/integration/test_survey_*.py`, `test_report_page.py`",
    ),
    ("`roles/`, `playbooks/`", "`tests/integration/`, `tests/fleet/`; with a real systemd `tests/vm/`"),
    (
        "`docs/`, `README.md`",
        "`tests/checks/test_documents.py`, `test_blocks.py`; what a reader types:"
        " `tests/fleet/test_first_hour.py`, `tests/unit/test_docs.py`",
    ),
    ("`tests/rig/`", "`tests/unit/rig/`"),
)
"""What is changed, and where it is tested."""
LIBRARY, UNIT = ROOT / "lib" / "mshare", ROOT / "tests" / "unit"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- tests: begin -->", "<!-- tests: end -->"
# Generated, and compared with what generates it; run by `python -m mshare` only; makes the former.
WITHOUT = {"kernel._libc", "kernel.build_libc", "__main__"}


def library_modules() -> list[str]:
    """The modules of the library below `mshare`, without packages: "region.spec"."""
    files = (path.relative_to(LIBRARY).with_suffix("") for path in LIBRARY.rglob("*.py"))
    names = (".".join(path.parts) for path in files if path.name != "__init__")
    return sorted(name for name in names if name not in WITHOUT)


def imported(path: Path) -> set[str]:
    """What a test imports of the library, below `mshare`: modules, and names that may be modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mshare.") for name in names if name.startswith("mshare.")}


def tests_of(module: str) -> list[Path]:
    """The unit tests in the folder of a module's noun that import it.

    The commands are loaded by their names: their tests import the program that does so.
    """
    top, __, below = module.partition(".")
    tests = UNIT.glob("test_*.py") if not below else (UNIT / top).rglob("test_*.py")
    wanted = {module, "cli.program"} if top == "cli" else {module}
    return sorted(path for path in tests if wanted & imported(path))


def untested() -> list[str]:
    """The modules that no test in their folder imports."""
    return [module for module in library_modules() if not tests_of(module)]


def table() -> list[str]:
    """Which tests belong to a change, as the lines of a table."""
    rows = [f"| {what} | {where} |" for what, where in PLACES]
    return ["| Changed | Test in |", "|---|---|", *rows]


def written() -> str:
    """CONTRIBUTING.md with the table as it should be."""
    text = CONTRIBUTING.read_text()
    before, rest = text.split(BEGIN)
    return "\n".join([before + BEGIN, *table(), END + rest.split(END)[1]])


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        CONTRIBUTING.write_text(written())
    else:
        print("\n".join(untested()))
