# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.asking import AskingAction, for_each, of_each


class ActionModule(AskingAction):
    COMMAND = ("create",)
    SPEC = frozenset(
        (
            *("name", "size", "mappings", "window", "address", "mode", "owner", "group", "backend", "root"),
            *("overcommit", "prefault", "pattern", "memory_max", "before"),
        )
    )
    CONSENTS = frozenset(("recreate", "replace_stale", "force"))
    ANEW = ("replace_outdated",)

    def _asked(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return for_each("name", "regions", arguments, alternatives=("size", "mappings"))

    def _settled(self, answer: dict[str, Any]) -> bool:
        return bool(answer["region"].get("health") == "healthy")

    def _result(self, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
        return of_each("name", "region", "regions" in self._task.args, asked, answers)
