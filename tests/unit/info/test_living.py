# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who lives on a root, as the words of a refusal."""

from __future__ import annotations

import os
import signal

from mshare.info import inventory
from mshare.info.living import living_roles


def test_nobody(here):
    assert living_roles(str(here.root)) == []


def test_an_owner_and_its_clients(here):
    root = str(here.root)
    with here.owned() as owner:
        assert living_roles(root) == [f"region sga (owner {owner.pid})"]
        here.ok("clients", "start", "sga", "--count", "2")
        launcher = inventory.clients_facts(root, "sga").launcher_pid
        (sentence,) = living_roles(root)
        assert sentence.startswith(f"region sga (owner {owner.pid}; launcher {launcher}; 2 attached: ")
        here.ok("clients", "stop", "sga")


def test_an_owner_that_was_killed_does_not_live(here):
    with here.owned() as owner:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert living_roles(str(here.root)) == []
