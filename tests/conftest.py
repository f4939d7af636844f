# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is the same for all tests."""

from __future__ import annotations

import os

import pytest

from rig import digest, order


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.begin_with_the_longest(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = os.environ.get("MSHARE_TEST_DIGEST")
    # Workers have a summary, too, of their own part.
    if path and not hasattr(config, "workerinput"):
        digest.append(path, terminalreporter.stats)
