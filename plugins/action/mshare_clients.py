# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.asking import AskingAction, for_each, of_each


class ActionModule(AskingAction):
    COMMAND = ("clients", "start")
    SPEC = frozenset(
        ("region", "count", "command", "touch", "span", "stride", "settle_seconds", "backend", "root")
    )
    CONSENTS = frozenset(("restart_dead", "require_all"))
    ANEW = ("restart_outdated",)

    def _asked(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return for_each("region", "clients", arguments)

    def _settled(self, answer: dict[str, Any]) -> bool:
        found = answer["clients"]
        ready = found.get("launcher_alive") and found.get("state") == "ready"
        return bool(ready and not found["dead"] and found["attached"] == found["requested"])

    def _result(self, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
        return of_each("region", "clients", "clients" in self._task.args, asked, answers)
