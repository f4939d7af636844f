# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser without a window: what a page shows in it, and how it prints."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

# It must ask the network for nothing of its own while it looks at a file.
_FLAGS = (
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SECONDS = 60


def missing() -> str | None:
    """Why this machine cannot open a page."""
    return None if shutil.which("chromium") else "no browser: Debian's package chromium is not installed"


def shown(page: Path) -> str:
    """The document as the browser understood it."""
    return _run("--dump-dom", page)


def picture(page: Path, to: Path) -> None:
    _run(f"--screenshot={to}", page, "--window-size=1100,1500")


def printed(page: Path, to: Path) -> None:
    """As a PDF, on the paper that the page asks for."""
    _run(f"--print-to-pdf={to}", page, "--no-pdf-header-footer")


def _run(action: str, page: Path, *flags: str) -> str:
    with tempfile.TemporaryDirectory(prefix="mshare-browser-") as profile:
        command = ["chromium", *_FLAGS, *flags, f"--user-data-dir={profile}", action, page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    return done.stdout
