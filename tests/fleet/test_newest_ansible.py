# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller with the newest ansible-core that Python 3.13 takes."""

from __future__ import annotations

import subprocess

import pytest

from fleet import interpreters
from fleet.world import World

HOSTS = 1
VERSION = "3.13"
PACKAGE = "ansible-core>=2.20"


def test_the_newest_ansible_core(hosts: World) -> None:
    if interpreters.find(VERSION) is None:
        pytest.skip(f"no Python {VERSION} on this machine")
    before = hosts.snapshots()
    programs = interpreters.venv(VERSION, PACKAGE) / "bin"
    said = subprocess.run(
        [programs / "ansible", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert "core 2.19" not in said
    first = hosts.deploy(programs=programs).succeeded()
    assert first.recap["changed"] == 4
    assert "DEPRECATION" not in first.output
    assert hosts.deploy(programs=programs).succeeded().recap["changed"] == 0
    assert hosts.teardown(programs=programs).succeeded().recap["changed"] == 4
    assert hosts.changed_since(before) == {}
