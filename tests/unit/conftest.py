# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several folders of unit tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mshare.services.choose import systemd_runs
from rig import apart
from rig.other_user import shared_directory
from rig.world import World, new_world

# A busy machine is no fault of a test.
settings.register_profile("mshare", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mshare")


def pytest_configure() -> None:
    """As root on a machine with systemd, commands would make units and start them: the tests see none."""
    if os.geteuid() == 0 and systemd_runs():
        try:
            apart.hide(apart.SYSTEMD)
        except OSError as error:
            pytest.exit(
                f"the unit tests would reach this machine's systemd ({error}); run them as an ordinary user,"
                " or with CAP_SYS_ADMIN",
                returncode=4,
            )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A simulated msharefs and its folders, for the library in this process as well as for commands."""
    with new_world() as world:
        for name in [name for name in os.environ if name.startswith(("MSHARE_", "_MSHARE"))]:
            monkeypatch.delenv(name)
        for name, value in world.environment.items():
            if name.startswith("MSHARE_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", world.environment["PYTHONPATH"])
        yield world


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of root's on a tmpfs, which other users may enter."""
    with shared_directory() as path:
        yield path
