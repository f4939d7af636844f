# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts that the fleet's tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.world import World, world
from rig.hosts.fleet import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of them for one reason."""
    reason = missing()
    for item in items:
        if reason and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """As many hosts as the file of tests says in HOSTS, on which nothing of ours ever was."""
    with world(tmp_path_factory.mktemp("fleet"), request.module.HOSTS) as one:
        yield one


@pytest.fixture
def clean(hosts: World) -> Iterator[World]:
    """The same hosts; a test leaves them as it found them, after a teardown where it left something."""
    before = hosts.snapshots()
    yield hosts
    hosts.teardown().succeeded()
    assert hosts.changed_since(before) == {}
