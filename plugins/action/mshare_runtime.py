# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare import install
from ansible_collections.dbmem.mshare.plugins.plugin_utils.command_line import preload_sources, sources

# The module's own options and defaults, as far as they say what should be there.
PLACE = {
    "directory": "/usr/local/lib/mshare",
    "executable": "/usr/local/bin/mshare",
    "python": "/usr/bin/python3",
}


class ActionModule(ActionBase):
    """Asks with one command whether exactly this is installed, before the module is sent with the whole library.

    On a second run that is all there is to do.
    """

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        place = self._place()
        preload = boolean(self._task.args.get("preload", False), strict=False)
        if place is not None and self._installed(place, preload):
            summary = install.summary(install.manifest(place, sources(), preload=preload))
            return {
                **result,
                "changed": False,
                "actions": [],
                "boot": {},
                "missing_imports": [],
                "missing_compiler": False,
                "version": library.__version__,
                "diff": {"before": summary, "after": summary},
            }
        arguments = dict(self._task.args)
        if arguments.get("state") != "absent":
            arguments["preload_sources"] = preload_sources()
        return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}

    def _place(self) -> install.Place | None:
        """Where the library should be; None where only the module can tell what the arguments mean."""
        arguments = dict(self._task.args)
        for name in ("require_imports", "preload"):
            arguments.pop(name, None)
        if arguments.pop("state", "present") != "present" or arguments.keys() - PLACE.keys():
            return None
        paths = {**PLACE, **{key: str(value) for key, value in arguments.items()}}
        plain = all(path.startswith("/") and "$" not in path for path in paths.values())
        return install.Place(**paths) if plain else None

    def _installed(self, place: install.Place, preload: bool) -> bool:
        command = install.check_command(place, sources(), preload)
        answer = self._low_level_execute_command(command, sudoable=True)
        return bool(answer["rc"] == 0)
