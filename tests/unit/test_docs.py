# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python in the documentation runs as it stands, page by page, on a simulated msharefs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.targets import Target
from rig.patience import HANG_SECONDS

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "lib"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if BLOCK.search(path.read_text())
]

# A process of its own for each page: regions belong to threads, and mshare() stays attached.
PRELUDE = """\
import sys
from mshare.backends import choose
choose.kernel_has_msharefs = lambda: False
choose.paths.simulated_root = lambda: sys.argv[1]
"""


def program(text: str) -> str:
    """A page's blocks as one program whose line numbers are the page's."""
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for number, line in enumerate(block.group(1).splitlines(), first):
            lines[number] = line
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_runs(page: Path) -> None:
    run = f"exec(compile({program(page.read_text())!r}, {str(page)!r}, 'exec'))"
    with Target("2025-08", "simulated").mounted() as root:
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + run, root],
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        left_over = sorted(set(os.listdir(root)) - {"mshare_info", ".simulated"})
    assert done.returncode == 0, done.stderr
    assert left_over == []


def test_the_page_about_python_has_blocks() -> None:
    assert ROOT / "docs" / "python-api.md" in PAGES
