# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare import record
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError, kind, sentence
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.report import files

OPTIONS = {
    "folder": {"type": "path", "required": True},
    "results": {"type": "dict", "default": {}},
    "stored": {"type": "list", "elements": "path", "default": []},
    "compare": {"type": "path"},
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
        folder = options["folder"]
        gathered = files.gathered(options["results"], options["stored"])
        report = files.report(gathered, options["compare"])
        changed = report.changed(folder)
        diff = [report.diff(folder, name) for name in changed] if self._task.diff else []
        if changed and not self._task.check_mode:
            report.write(folder)
        return {**record.to_fields(report.facts(folder, changed)), "diff": diff}
