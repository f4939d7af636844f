# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.dbmem.mshare.plugins.module_utils import _results
from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import library as preload_library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import shipped as preload_shipped
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import manifest
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import sources as package
from ansible_collections.dbmem.mshare.plugins.plugin_utils.action import LibraryAction
from ansible_collections.dbmem.mshare.plugins.plugin_utils.library import sources

# The module's own options and defaults, as far as they say what should be there.
PLACE = {
    "directory": "/usr/local/lib/mshare",
    "executable": "/usr/local/bin/mshare",
    "python": "/usr/bin/python3",
}


class ActionModule(LibraryAction):
    """Asks with one command whether exactly this is installed, before the module is sent with all the sources.

    On a second run that is all there is to do.
    """

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        first = super().run(tmp, task_vars)
        if self._task.args.get("preload_from") != "any" or not first.get("missing_compiler"):
            return first
        # The host has no compiler, and the module has installed everything but the preload.
        arguments = {**self._arguments(), **_built()}
        second: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return second if self._task.check_mode or second.get("failed") else _both(first, second)

    def _arguments(self) -> dict[str, Any]:
        arguments = dict(self._task.args)
        if arguments.get("state") == "absent":
            return arguments
        wanted = boolean(arguments.get("preload", False), strict=False)
        # The result of a task in the background comes too late to send something after it.
        places = ("controller", "any") if self._task.async_val else ("controller",)
        built = _built() if wanted and arguments.get("preload_from") in places else {}
        return {**arguments, **built, "sources": package.pack(sources())}

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
            "diff": _results.diff(f"library in {place.directory}", summary, summary)[0],
        }

    def _place(self) -> manifest.Place | None:
        """Where the library should be; None where only the module can tell what the arguments mean."""
        arguments = dict(self._task.args)
        for name in ("require_imports", "preload", "preload_from"):
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


def _built() -> dict[str, Any]:
    """The preload and the program of lean clients, built here, as an argument of the module."""
    own = manifest.preload_sources(sources())
    try:
        paths = {
            product.file_name: preload_library.built(own, product) for product in preload_library.PRODUCTS
        }
    except MshareError as error:
        raise AnsibleActionFail(f"on the controller: {error}") from error
    contents = {name: Path(path).read_bytes() for name, path in paths.items()}
    return {"preload_built": preload_shipped.pack(contents)}


def _both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The result of two calls of the module as that of one."""
    both = {key: first.get(key, []) + second.get(key, []) for key in ("actions", "warnings")}
    diffs = [
        diff
        for result in (first, second)
        for diff in (result["diff"] if isinstance(result.get("diff"), list) else [result.get("diff")])
        if diff
    ]
    return {**second, **both, "diff": diffs, "changed": first["changed"] or second["changed"]}
