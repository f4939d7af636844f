# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import (
    NUMBER,
    SEQUENCE,
    TEXT,
    TRUTH,
    Command,
)
from ansible_collections.dbmem.mshare.plugins.plugin_utils.converging import EachAction


class ActionModule(EachAction):
    PRESENT = Command(
        ("create",),
        spec={
            **dict.fromkeys(("name", "backend", "root", "mode", "owner", "group"), TEXT),
            **dict.fromkeys(("size", "window", "address", "memory_max"), NUMBER),
            **dict.fromkeys(("mappings", "before"), SEQUENCE),
            **dict.fromkeys(("overcommit", "prefault", "pattern"), TRUTH),
        },
        flags=("recreate", "replace_stale", "replace_outdated", "force"),
        switches=("boot",),
    )
    ABSENT = Command(("rm",), argument="name", values=("backend", "root"), flags=("force",))
    NAME, LIST, FACTS = "name", "regions", "region"
    ALTERNATIVES = ("size", "mappings")

    def _settled(self, facts: dict[str, Any]) -> bool:
        return not facts or facts["health"] == "healthy"
