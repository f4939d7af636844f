# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is there: regions by their files and their owners, each with its health."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from mshare.info import inventory
from mshare.region.status import OWNER, starting
from mshare.services import status_file
from mshare.units import MIB
from rig.world import eventually


def root(here) -> str:
    return str(here.root)


def test_nothing_yet(here):
    assert inventory.region_names(root(here)) == []
    facts = inventory.host("simulated", root(here))
    assert (facts.support.supported, facts.support.mounted, facts.regions) == (True, True, ())
    assert facts.memory.total_bytes > facts.memory.page_tables_bytes > 0
    (mount,) = facts.mounts
    assert (mount.root, mount.backend, mount.generation) == (root(here), "simulated", "2025-08")
    assert mount.features["owner_bound"] is True


def test_a_root_that_is_not_there_is_said_so(tmp_path):
    facts = inventory.support("simulated", str(tmp_path))
    assert (facts.supported, facts.mounted) == (True, False)
    assert "holds no msharefs of backend simulated; mount it with" in facts.reasons[-1]


def test_a_region_with_its_owner(here):
    with here.owned() as process:
        facts = inventory.region_facts(root(here), "sga")
        assert (facts.health, facts.exists, facts.mode) == ("healthy", True, "0600")
        assert facts.mapped_bytes == 64 * MIB
        assert facts.owner.pid == process.pid
        assert facts.clients is None


def test_an_owner_that_was_killed(here):
    with here.owned() as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        facts = inventory.region_facts(root(here), "sga")
        assert (facts.health, facts.owner.alive, facts.owner.state) == ("stale", False, "gone")


def test_a_file_that_is_gone_under_its_owner(here):
    with here.owned():
        (here.root / "sga").unlink()
        assert inventory.region_names(root(here)) == ["sga"]
        facts = inventory.region_facts(root(here), "sga")
        assert (facts.health, facts.exists, facts.mode) == ("missing", False, None)


def test_a_region_that_is_being_made(here):
    """Its owner has written down that it runs, and has not made the file yet."""
    status_file.make_directory(root(here))
    path = status_file.file(root(here), "sga", OWNER)
    status_file.write(path, starting("sga", root(here), {}))
    assert inventory.region_facts(root(here), "sga").health == "starting"
    status = status_file.read(root(here), "sga", OWNER)
    status_file.write(path, replace(status, started_ticks=status.started_ticks - 1))
    assert inventory.region_facts(root(here), "sga").health == "missing"


def test_clients_are_counted_by_who_lives(here):
    with here.owned():
        here.ok("clients", "start", "sga", "--count", "3")
        facts = inventory.clients_facts(root(here), "sga")
        assert (facts.attached, facts.requested, facts.launcher_alive) == (3, 3, True)
        os.kill(facts.launcher_pid, signal.SIGKILL)
        eventually(lambda: not inventory.clients_facts(root(here), "sga").launcher_alive)
        assert inventory.clients_facts(root(here), "sga").attached == 0
