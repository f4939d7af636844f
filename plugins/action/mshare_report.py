# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError, kind, sentence
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.report import files

OPTIONS = {
    "folder": {"type": "path", "required": True},
    "results": {"type": "dict", "default": {}},
    "stored": {"type": "list", "elements": "path", "default": []},
}


class ActionModule(ActionBase):
    """Runs where the surveys arrive and where Jinja is: no host is asked anything."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        __, options = self.validate_argument_spec(argument_spec=OPTIONS)
        try:
            return {**result, **self._report(options)}
        except (MshareError, OSError) as error:
            return {**result, "failed": True, "msg": sentence(error), "error_kind": kind(error)}

    def _report(self, options: dict[str, Any]) -> dict[str, Any]:
        fleet, contents = files.contents(*files.gathered(options["results"], options["stored"]))
        changed = files.changed(options["folder"], contents)
        if changed and not self._task.check_mode:
            files.write(options["folder"], contents)
        page = files.page_of(options["folder"])
        return {
            "changed": bool(changed),
            "files": changed,
            "html": page,
            "totals": fleet.to_dict()["totals"],
            "missing": fleet.to_dict()["missing"],
            "summary": [*fleet.summary_lines(), f"The report is {page}"],
            "diff": [
                {
                    "before": "",
                    "after": f"{name} is written anew\n",
                    "before_header": name,
                    "after_header": name,
                }
                for name in changed
            ],
        }
