# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts without a network install with pip: wheels, downloaded once into the user's cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rig.debian import cache_dir, exclusive, remove_tree


def wheels(python: str, requirements: Sequence[str], *flags: str) -> Path:
    """The folder of the wheels that a Python of a version, like 3.13, needs for these requirements; flags are
    those of `pip download`."""
    recipe = hashlib.sha256(repr(sorted([*requirements, *flags])).encode()).hexdigest()[:8]
    folder = cache_dir("wheels") / f"{python}-{recipe}"
    ready = folder / "ready"
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if not ready.exists():
            if folder.exists():
                remove_tree(folder)
            folder.mkdir()
            target = ["--python-version", python, "--only-binary=:all:", "--dest", str(folder)]
            command = [sys.executable, "-m", "pip", "download", "-qq", *flags, *target, *requirements]
            subprocess.run(command, check=True)
            ready.touch()
    return folder
