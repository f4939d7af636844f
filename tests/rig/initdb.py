# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data directories of PostgreSQL: initdb makes each kind once, for all clones, and every server gets a copy.

A copy takes a fraction of the time. And no initdb runs beside a test that has reserved huge pages: it takes
pages wherever there are any, which cannot be switched off before PostgreSQL 16.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rig import huge_pages
from rig.debian import cache_dir, exclusive, remove_tree
from rig.patience import HANG_SECONDS

ACCOUNT = "postgres"
_WORDS = ("--username", ACCOUNT, "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8")


def as_account(*words: str) -> list[str]:
    """PostgreSQL refuses root. The signal stops the program when whoever started it is killed."""
    if os.getuid() != 0:
        return ["setpriv", "--pdeathsig", "INT", *words]
    identity = [f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"]
    return ["setpriv", *identity, "--pdeathsig", "INT", *words]


def data_directory(target: Path, programs: Path, *auth: str) -> None:
    """Make a new data directory for the programs in a folder; `auth` are initdb's options of that name."""
    _copy(_template(programs, auth), target)


def _template(programs: Path, auth: tuple[str, ...]) -> Path:
    said = subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, text=True)
    recipe = repr((said.stdout, *_WORDS, *auth, os.getuid()))
    folder = cache_dir("data-directories") / hashlib.sha256(recipe.encode()).hexdigest()[:8]
    with exclusive(folder.with_suffix(".lock")):
        if not folder.exists():
            with huge_pages.turn():
                _make(folder, programs, auth)
    return folder


def _make(folder: Path, programs: Path, auth: tuple[str, ...]) -> None:
    unfinished = folder.with_suffix(".unfinished")
    if unfinished.exists():
        remove_tree(unfinished)
    # Where the server's user may write.
    with tempfile.TemporaryDirectory(prefix="mshare-initdb.") as scratch:
        if os.getuid() == 0:
            shutil.chown(scratch, ACCOUNT, ACCOUNT)
        # Without what the test has preloaded into its servers.
        subprocess.run(
            as_account(str(programs / "initdb"), "--pgdata", f"{scratch}/data", *_WORDS, *auth),
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=HANG_SECONDS,
        )
        _copy(Path(scratch, "data"), unfinished)
    unfinished.rename(folder)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--no-target-directory", source, target], check=True)
