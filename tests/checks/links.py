# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links in plugins/module_utils/mshare: one per Python file of the library, and the report's page.

Ansible ships what a module imports from module_utils; through the links that is the library itself.
One link per file, because a linked folder needs an ignore line in ansible-test sanity.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from checks import manuals
from checks.layout import ROOT

LIBRARY = ROOT / "lib" / "mshare"
PAGE = tuple((LIBRARY / "report").glob("page.[!p]*"))
"""Template, style and script. Ansible ships no such files; the report is made on the controller."""
# No module imports them, and Galaxy refuses the name of the first.
UNLINKED = ("__main__.py", "build_libc.py")
MIRROR = ROOT / "plugins" / "module_utils" / "mshare"


def wanted_links() -> dict[Path, str]:
    """Each link that has to be there, with its target relative to the link."""
    links = {}
    for source in sorted([*LIBRARY.rglob("*.py"), *PAGE]):
        if source.name in UNLINKED:
            continue
        link = MIRROR / source.relative_to(LIBRARY)
        links[link] = os.path.relpath(source, link.parent)
    return links


def actual_links() -> dict[Path, str]:
    """Everything in the mirror, with its target; a file that is no link has the target ''."""
    return {
        path: os.readlink(path) if path.is_symlink() else ""
        for path in MIRROR.rglob("*")
        if (path.is_symlink() or path.is_file()) and "__pycache__" not in path.parts
    }


def differences() -> list[str]:
    """One sentence per link that is missing, wrong or too much."""
    wanted, actual = wanted_links(), actual_links()
    sentences = [
        f"{path.relative_to(ROOT)} should be a link to {target}"
        for path, target in wanted.items()
        if actual.get(path) != target
    ]
    sentences += [
        f"{path.relative_to(ROOT)} mirrors no file of the library"
        for path in sorted(actual.keys() - wanted.keys())
    ]
    return sentences


def write() -> None:
    """Make the mirror what it should be."""
    wanted = wanted_links()
    for path, target in actual_links().items():
        if wanted.get(path) != target:
            path.unlink()
    for path, target in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(target)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: make links")
    write()
    # They are written from the command line's definitions, which are of the library as well.
    manuals.write()
