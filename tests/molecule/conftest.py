# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of molecule's scenarios share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.hosts.base import LIBRARY
from rig.hosts.fleet import Fleet, missing, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of them for one reason, said once."""
    reason = missing()
    for item in items:
        if reason and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def host() -> Iterator[Fleet]:
    """A host of a user's, on which nothing of ours ever was."""
    with running("molecule", 1, LIBRARY) as fleet:
        yield fleet
