# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library as this collection has it: its sources, and whether a host has the same."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import library as preload_library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import install, manifest


def is_same_as(executable: str) -> str:
    """A shell command that succeeds where the program on a host is of the very same library."""
    line = r"s/^sys\.path\.insert(0, '\(.*\)')$/\1/p"
    mark = f'"library": "{_digest()}"'
    path = shlex.quote(executable)
    return f'grep -qsF {shlex.quote(mark)} "$(sed -n {shlex.quote(line)} {path} 2>/dev/null)/manifest.json"'


@functools.cache
def sources() -> dict[str, str]:
    """The library, as mshare_runtime brings it: path below the package -> text."""
    top = Path(library.__file__).parent
    files = {path.relative_to(top): path for path in sorted(top.rglob("*.py"))}
    found = {
        str(below): path.read_text(encoding="utf-8")
        for below, path in files.items()
        if below.parts[0] not in install.CONTROLLERS
    }
    return {**found, **preload_sources()}


@functools.cache
def preload_sources() -> dict[str, str]:
    """Of the library what is not Python, and so not among the module_utils that Ansible ships."""
    folder = Path(library.__file__).parents[3] / "lib" / "mshare" / manifest.PRELOAD
    return {manifest.PRELOAD + name: text for name, text in preload_library.sources_in(str(folder)).items()}


@functools.cache
def _digest() -> str:
    return manifest.digest(sources())
