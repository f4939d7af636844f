# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/unit has the folders of the library, every module a test there, and CONTRIBUTING says where."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from checks import tested


def files() -> list[Path]:
    """What git tracks, or would track."""
    words = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=tested.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Path(line) for line in listed.splitlines()]


def test_every_module_has_a_test_in_its_folder() -> None:
    assert tested.untested() == []


def test_folders_of_tests_are_folders_of_the_library() -> None:
    others = {"plugins", "rig"}
    folders = {path.name for path in tested.UNIT.iterdir() if any(path.glob("**/test_*.py"))}
    assert folders - others <= {path.name for path in tested.LIBRARY.iterdir()}


def test_contributing_says_where() -> None:
    assert tested.CONTRIBUTING.read_text() == tested.written(), "type `make docs`"


def test_the_places_in_the_table_exist() -> None:
    """A name without a folder lies beside the name before it."""
    for row in tested.PLACES:
        for cell in row:
            folder = tested.ROOT
            for name in re.findall(r"`([^`]+)`", cell):
                pattern = name.replace("FOLDER", "*").rstrip("/")
                if "/" in pattern or (tested.ROOT / pattern).exists():
                    folder = tested.ROOT / pattern.rpartition("/")[0]
                elif "." not in pattern:
                    continue  # the beginning of a file's name
                else:
                    pattern = str((folder / pattern).relative_to(tested.ROOT))
                assert list(tested.ROOT.glob(pattern)), f"{name} does not exist"


def test_contributing_lists_every_folder() -> None:
    table = tested.CONTRIBUTING.read_text().partition("| Folder | Content |")[2].partition("\n\n")[0]
    named = {name.partition("/")[0] for name in re.findall(r"`([a-z_]+/[^`]*)`", table)}
    tracked = {path.parts[0] for path in files() if len(path.parts) > 1 and not path.parts[0].startswith(".")}
    assert tracked - named == set()


def test_the_page_about_the_architecture_has_every_folder_and_file_of_the_library() -> None:
    text = (tested.ROOT / "docs" / "architecture.md").read_text()
    house = text.partition("## The folders of the library")[2].partition("```text")[2].partition("```")[0]
    folders = {path.parent.name for path in tested.LIBRARY.glob("*/__init__.py")}
    assert set(re.findall(r"\b([a-z_]+)/(?=\s)", house)) == folders
    *__, flat = house.strip().splitlines()
    names = {path.stem for path in tested.LIBRARY.glob("*.py") if not path.stem.startswith("__")}
    assert set(re.split(r" · ", flat.partition("   ")[0])) == names
