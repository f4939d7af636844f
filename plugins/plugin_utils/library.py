# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library as this collection has it: its sources, and whether a host has the same."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import manifest
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import sources as package


def is_same_as(executable: str) -> str:
    """A shell command that succeeds where the program on a host is of the very same library."""
    line = r"s/^sys\.path\.insert(0, '\(.*\)')$/\1/p"
    mark = f'"library": "{_digest()}"'
    path = shlex.quote(executable)
    return f'grep -qsF {shlex.quote(mark)} "$(sed -n {shlex.quote(line)} {path} 2>/dev/null)/manifest.json"'


@functools.cache
def sources() -> dict[str, str]:
    """The library, as mshare_runtime brings it: path below the package -> text."""
    # Not through the links in module_utils: what is not Python, such as the preload's C, has none.
    return package.read(str(Path(library.__file__).parents[3] / "lib" / "mshare"))


@functools.cache
def _digest() -> str:
    return manifest.digest(sources())
