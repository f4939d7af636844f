# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest versions that the library says it runs with are those that the stage `oldest` runs it with."""

from __future__ import annotations

import re

from checks.layout import ROOT

_BOUND = re.compile(r'^  "([\w-]+) >= ([\d.]+)",$', re.M)
_PIN = re.compile(r"^([\w-]+) == ([\d.]+)$", re.M)


def test_the_lower_bounds_are_tested() -> None:
    bounds = dict(_BOUND.findall((ROOT / "lib/pyproject.toml").read_text()))
    pins = dict(_PIN.findall((ROOT / "tests/checks/oldest.txt").read_text()))
    assert len(bounds) == 6
    assert bounds.items() <= pins.items()


def test_they_are_documented() -> None:
    bounds = dict(_BOUND.findall((ROOT / "lib/pyproject.toml").read_text()))
    text = (ROOT / "docs/support.md").read_text()
    assert [name for name, version in bounds.items() if f"{name} {version}" not in text] == []
