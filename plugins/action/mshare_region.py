# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import Command
from ansible_collections.dbmem.mshare.plugins.plugin_utils.converging import EachAction


class ActionModule(EachAction):
    PRESENT = Command(
        ("create",),
        spec=frozenset(
            (
                *("name", "size", "mappings", "window", "address", "mode", "owner", "group", "backend"),
                *("root", "overcommit", "prefault", "pattern", "memory_max", "before"),
            )
        ),
        flags=("recreate", "replace_stale", "replace_outdated", "force"),
        switches=("boot",),
    )
    ABSENT = Command(("rm",), argument="name", values=("backend", "root"), flags=("force",))
    NAME, LIST, FACTS = "name", "regions", "region"
    ALTERNATIVES = ("size", "mappings")

    def _settled(self, facts: dict[str, Any]) -> bool:
        return not facts or facts["health"] == "healthy"
