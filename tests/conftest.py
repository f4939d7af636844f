# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is the same for all tests."""

from __future__ import annotations

import pytest

from rig import order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.begin_with_the_longest(items)
