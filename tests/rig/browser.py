# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser without a window: what a page shows in it, and how it prints."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rig.patience import HANG_SECONDS

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


def missing() -> str | None:
    """Why this machine cannot open a page."""
    return None if shutil.which("chromium") else "no browser: Debian's package chromium is not installed"


def shown(page: Path) -> str:
    """The document as the browser understood it."""
    return _run("--dump-dom", page)


def measured(
    page: Path, width: int, scripts: Mapping[str, str], *, printed: bool = False, dark: bool = False
) -> dict[str, Any]:
    """What scripts find out about the page in a window of a width, by their names: what each of them assigns
    to `answer`.

    The page stands in a frame, for a browser's own window cannot be as narrow as a phone; `document` and
    `window` are the frame's. `printed`: with the rules for paper instead of those for a screen.
    """
    text = page.read_text(encoding="utf-8")
    if printed:
        text = text.replace("@media screen", "@media not all").replace("@media print", "@media all")
    frame = (
        f'<iframe id="frame" srcdoc="{html.escape(text)}" style="border: 0; width: {width}px; height: 900px">'
    )
    asked = ",\n".join(
        f"{json.dumps(name)}: ((document, window) => {{ let answer; {script}\nreturn answer; }})"
        for name, script in scripts.items()
    )
    run = (
        f"const scripts = {{{asked}}}; frame.onload = () => {{ const answers = {{}};"
        " for (const [name, script] of Object.entries(scripts))"
        " answers[name] = script(frame.contentDocument, frame.contentWindow);"
        " document.title = JSON.stringify(answers); }"
    )
    with tempfile.TemporaryDirectory(prefix="mshare-page-") as folder:
        holder = Path(folder, "holder.html")
        holder.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><title></title>{frame}</iframe><script>{run}</script>',
            encoding="utf-8",
        )
        scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
        document = _run("--dump-dom", holder, scheme, "--window-size=1400,1000")
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert title is not None
    assert title[1], "the scripts did not come to their end"
    answers: dict[str, Any] = json.loads(html.unescape(title[1]))
    return answers


def picture(page: Path, to: Path) -> None:
    _run(f"--screenshot={to}", page, "--window-size=1100,1500")


def printed(page: Path, to: Path) -> None:
    """As a PDF, on the paper that the page asks for."""
    _run(f"--print-to-pdf={to}", page, "--no-pdf-header-footer")


def _run(action: str, page: Path, *flags: str) -> str:
    with tempfile.TemporaryDirectory(prefix="mshare-browser-") as profile:
        command = ["chromium", *_FLAGS, *flags, f"--user-data-dir={profile}", action, page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=True)
    return done.stdout
