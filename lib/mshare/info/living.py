# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who lives on a root: what would end with it, for a refusal that names them."""

from __future__ import annotations

from . import attached
from .inventory import region_facts, region_names


def living_roles(root: str) -> list[str]:
    """Who lives on a root, as words for a sentence: "region sga (owner 4711; attached: 4713 ...)"."""
    living = []
    for name in region_names(root):
        facts = region_facts(root, name)
        users = attached.processes(root, name)
        who = [f"owner {facts.owner.pid or 'unknown'}"] if facts.owner.alive else []
        if facts.clients is not None and facts.clients.launcher_alive:
            who.append(f"launcher {facts.clients.launcher_pid}")
        if users:
            who.append(f"{len(users)} attached: {attached.summary(users)}")
        if who:
            living.append(f"region {name} ({'; '.join(who)})")
    return living
