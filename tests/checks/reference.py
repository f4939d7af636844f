# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference in docs/reference, written by antsibull-docs from the documentation blocks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from checks.layout import COLLECTION, ROOT

REFERENCE = ROOT / "docs" / "reference"


def write(folder: Path) -> None:
    """Write the pages into a folder that exists; what it held before under other names stays."""
    command = [
        *("antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error"),
        *("--output-format", "simplified-rst", "--dest-dir", str(folder), COLLECTION),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)


def main() -> None:
    # Elsewhere first: documentation that cannot be rendered costs no page.
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        # Only pages: one of a module that is gone goes.
        for page in REFERENCE.glob("*.rst"):
            page.unlink()
        shutil.copytree(folder, REFERENCE, dirs_exist_ok=True)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"] or shutil.which("antsibull-docs") is None:
        sys.exit("usage: make docs")
    main()
