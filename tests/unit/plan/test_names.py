# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A region's name out of an instance's."""

from __future__ import annotations

import pytest

from mshare.plan.names import region_name
from mshare.region import rules


@pytest.mark.parametrize(
    ("instance", "region"),
    [
        ("15-main", "15_main"),
        ("PostgreSQL 15/main (db1)", "PostgreSQL_15_main_db1"),
        ("..", "sga"),
        ("\u65e5\u672c", "sga"),
        (".hidden.", "hidden"),
        ("x" * 300, "x" * 128),
    ],
)
def test_a_name_that_a_region_may_have(instance, region):
    assert region_name(instance) == region
    assert rules.region_name(region) == region
