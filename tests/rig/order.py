# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order files of tests begin: side by side, they take as long as the one that ends last."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LONG = (
    "fleet/test_patroni.py",
    "fleet/test_first_hour.py",
    "fleet/test_postgresql_unit.py",
    "fleet/test_monitoring.py",
    "fleet/test_prometheus.py",
    # The last one of its stage by its name.
    "unit/test_garbled_files.py",
)
"""Those that take minutes, the longest first; and one that nothing else would run beside."""


def begin_with_the_longest(items: list[pytest.Item]) -> None:
    """All others stay in their order."""
    places = {TESTS / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))
