# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.validate import failure
from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import Command, CommandLineAction


class ActionModule(CommandLineAction):
    """What the command measures is the same; several regions in one result are the module's."""

    COMMAND = Command(
        ("validate",),
        argument="region",
        values=(
            *("backend", "root", "span", "probes", "min_saving_percent", "max_model_error_percent"),
            *("min_clients_attached", "max_client_errors", "project_size", "project_clients"),
        ),
    )

    def _lines(self, executable: str, arguments: dict[str, Any]) -> list[str | None]:
        return [self.COMMAND.line(executable, arguments)]

    def _result(self, answers: list[dict[str, Any]]) -> dict[str, Any] | None:
        return {"changed": False, **answers[0]}

    def _failure(self, answer: dict[str, Any]) -> dict[str, Any] | None:
        if "passed" not in answer:
            return super()._failure(answer)
        return {
            "failed": True,
            "msg": failure([self._task.args["region"]], answer["reasons"]),
            "error_kind": "verdict_failed",
            "changed": False,
            **answer,
        }
