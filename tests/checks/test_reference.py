# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference in docs/reference is what the documentation of modules and roles says today."""

from __future__ import annotations

from pathlib import Path

from checks import reference


def pages(folder: Path) -> dict[str, str]:
    return {page.name: page.read_text() for page in folder.glob("*.rst")}


def test_the_reference_is_fresh(tmp_path: Path) -> None:
    reference.write(tmp_path)
    written, kept = pages(tmp_path), pages(reference.REFERENCE)
    assert written, "nothing was written"
    stale = sorted(name for name in written.keys() | kept.keys() if written.get(name) != kept.get(name))
    assert stale == [], "type `make docs`"
