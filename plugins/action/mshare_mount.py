# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import NUMBER, TEXT, TRUTH, Command
from ansible_collections.dbmem.mshare.plugins.plugin_utils.converging import ConvergingAction


class ActionModule(ConvergingAction):
    PRESENT = Command(
        ("mount",),
        spec={
            **dict.fromkeys(("backend", "root", "generation", "mode", "group"), TEXT),
            "size": NUMBER,
            "create_group": TRUTH,
        },
        switches=("boot",),
    )
    ABSENT = Command(("umount",), values=("backend", "root"))

    def _facts(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {
            **{key: answer[key] for key in ("backend", "root", "mount")},
            "backend_reason": answer["reason"],
        }
