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
        ("clients", "start"),
        spec={
            **dict.fromkeys(("region", "backend", "root"), TEXT),
            **dict.fromkeys(("count", "span", "stride", "settle_seconds"), NUMBER),
            "command": SEQUENCE,
            "touch": TRUTH,
        },
        flags=("restart_dead", "restart_outdated", "require_all"),
        switches=("boot",),
    )
    ABSENT = Command(("clients", "stop"), argument="region", values=("backend", "root"))
    NAME, LIST, FACTS = "region", "clients", "clients"

    def _settled(self, facts: dict[str, Any]) -> bool:
        if not facts:
            return True
        ready = facts["launcher_alive"] and facts["state"] == "ready"
        return bool(ready and not facts["dead"] and facts["attached"] == facts["requested"])
