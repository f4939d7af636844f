# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other Pythons of this machine, and venvs of them that are made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mshare.runtime.manifest import IMPORTS
from rig.debian import exclusive, remove_tree
from rig.hosts.base import cache_dir

LIBRARY = tuple({"yaml": "PyYAML"}.get(module, module) for module in IMPORTS)
"""What the library imports, by the names that PyPI has for it."""


def _candidates(version: str) -> Iterator[str]:
    # pyenv's shims on PATH may refuse to run; the versions that it keeps are not on PATH.
    if found := shutil.which(f"python{version}"):
        yield found
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        yield from map(str, sorted(Path(root, "versions").glob(f"{version}.*/bin/python{version}")))


def find(version: str) -> Path | None:
    """The folder of an interpreter of a version, with all that belongs to it; None where there is none."""
    program = "import ensurepip, sys; print(sys.base_prefix)"
    for candidate in _candidates(version):
        done = subprocess.run(
            [candidate, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return Path(done.stdout.strip())
    return None


def venv(version: str, *packages: str) -> Path:
    """The folder of a venv with packages in it."""
    base = find(version)
    assert base is not None, f"no Python {version}"
    recipe = repr((str(base), packages))
    folder = cache_dir() / f"venv-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    ready = folder / "ready"
    with exclusive(folder.parent / f"{folder.name}.lock"):
        if not ready.exists():
            if folder.exists():
                remove_tree(folder)
            subprocess.run([base / "bin" / f"python{version}", "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
            subprocess.run([*pip, *packages], check=True)
            ready.touch()
    return folder
