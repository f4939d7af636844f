# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.asking import AskingAction


class ActionModule(AskingAction):
    COMMAND = ("mount",)
    SPEC = frozenset(("backend", "root", "generation", "size", "mode", "group", "create_group"))
    CONSENTS = frozenset()

    def _asked(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        return [arguments]

    def _settled(self, answer: dict[str, Any]) -> bool:
        return answer["mount"].get("generation") is not None

    def _result(self, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
        (answer,) = answers
        return {
            "backend": answer["mount"]["backend"],
            "backend_reason": answer["reason"],
            "root": answer["mount"]["root"],
            "mount": answer["mount"],
            "boot": answer["boot"],
            "diff": {"before": answer["before"], "after": answer["after"]},
        }
