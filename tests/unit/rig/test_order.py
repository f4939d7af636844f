# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long files of tests begin first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rig import order


def test_they_are_there() -> None:
    assert [name for name in order.LONG if not (order.TESTS / name).exists()] == []


def test_others_stay_in_their_order() -> None:
    names = ("unit/b.py", order.LONG[1], "unit/a.py", order.LONG[0], "unit/b.py")
    items: list[Any] = [SimpleNamespace(path=order.TESTS / name) for name in names]
    order.begin_with_the_longest(items)
    assert [item.path for item in items] == [
        order.TESTS / name for name in (*order.LONG[:2], "unit/b.py", "unit/a.py", "unit/b.py")
    ]
