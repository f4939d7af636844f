# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.printable import printable_painted

OPTIONS = {"lines": {"type": "list", "elements": "str", "required": True}}
# Others write what programs read, or draw results in a way of their own: they get the lines as a result.
_PLAIN = ("default", "ansible.builtin.default")


class ActionModule(ActionBase):
    """Writes lines to the terminal as they are: the default callback prints a result as quoted JSON."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        __, options = self.validate_argument_spec(argument_spec=OPTIONS)
        shown = {**result, "changed": False, "lines": options["lines"]}
        if constants.DEFAULT_STDOUT_CALLBACK not in _PLAIN:
            return {**shown, "_ansible_verbose_always": True}
        variables = task_vars or {}
        hosts = variables.get("ansible_play_batch") or []
        title = (
            [f"{variables.get('inventory_hostname')}:"] if len(hosts) > 1 and not self._task.run_once else []
        )
        # A host names its processes as it likes. In one piece: what other hosts show at the same time comes before it or after it.
        Display().display("\n".join(map(printable_painted, [*title, *options["lines"]])))
        return shown
