# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import manifest
from ansible_collections.dbmem.mshare.plugins.plugin_utils.library import preload_sources, sources
from ansible_collections.dbmem.mshare.plugins.plugin_utils.module_action import ModuleAction

# The module's own options and defaults, as far as they say what should be there.
PLACE = {
    "directory": "/usr/local/lib/mshare",
    "executable": "/usr/local/bin/mshare",
    "python": "/usr/bin/python3",
}


class ActionModule(ModuleAction):
    """Asks with one command whether exactly this is installed, before the module is sent with the whole library.

    On a second run that is all there is to do.
    """

    def _arguments(self) -> dict[str, Any]:
        absent = self._task.args.get("state") == "absent"
        return {**self._task.args, **({} if absent else {"preload_sources": preload_sources()})}

    def _answer(self) -> dict[str, Any] | None:
        place = self._place()
        preload = boolean(self._task.args.get("preload", False), strict=False)
        if place is None or not self._installed(place, preload):
            return None
        summary = manifest.summary(manifest.manifest(place, sources(), preload=preload))
        return {
            "changed": False,
            "actions": [],
            "boot": {},
            "missing_imports": [],
            "missing_compiler": False,
            "version": library.__version__,
            "diff": {"before": summary, "after": summary},
        }

    def _place(self) -> manifest.Place | None:
        """Where the library should be; None where only the module can tell what the arguments mean."""
        arguments = dict(self._task.args)
        for name in ("require_imports", "preload"):
            arguments.pop(name, None)
        if arguments.pop("state", "present") != "present" or arguments.keys() - PLACE.keys():
            return None
        paths = {**PLACE, **{key: str(value) for key, value in arguments.items()}}
        plain = all(path.startswith("/") and "$" not in path for path in paths.values())
        return manifest.Place(**paths) if plain else None

    def _installed(self, place: manifest.Place, preload: bool) -> bool:
        command = manifest.check_command(place, sources(), preload)
        answer = self._low_level_execute_command(command, sudoable=True)
        return bool(answer["rc"] == 0)
