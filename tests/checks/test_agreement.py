# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts that are written down twice agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checks import links
from checks.layout import ROOT, load_yaml


def quoted_list(path: Path, key: str) -> set[str]:
    """A list of strings in a TOML file. tomllib is newer than the Pythons the checks may run on."""
    body = re.search(rf"^{key} = \[(.*?)\]", path.read_text(), re.DOTALL | re.MULTILINE)
    assert body, key
    return set(re.findall(r'"([^"]+)"', body.group(1)))


def test_module_utils_mirror_the_library() -> None:
    assert links.differences() == [], "run `make links`"


def test_versions() -> None:
    version = str(load_yaml(ROOT / "galaxy.yml")["version"])
    assert f'version = "{version}"' in (ROOT / "lib" / "pyproject.toml").read_text()
    assert version in load_yaml(ROOT / "changelogs" / "changelog.yaml")["releases"]


def test_requirements_hold_those_of_the_library() -> None:
    lines = set((ROOT / "requirements-test.txt").read_text().splitlines())
    assert quoted_list(ROOT / "lib" / "pyproject.toml", "dependencies") <= lines


@pytest.mark.parametrize("fragment", sorted((ROOT / "changelogs" / "fragments").glob("*.yml")))
def test_changelog_is_rendered(fragment: Path) -> None:
    known = load_yaml(ROOT / "changelogs" / "changelog.yaml")["releases"].values()
    names = {name for release in known for name in release.get("fragments", [])}
    assert fragment.name in names, "run `make changelog`"
