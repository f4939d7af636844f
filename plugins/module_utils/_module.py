# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of this collection does the same way: its options, its end, its failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import (
    MshareError,
    Unavailable,
    kind,
    sentence,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

MSHAREFS_OPTIONS = {
    "backend": {"type": "str", "choices": ["auto", "kernel", "simulated"], "default": "auto"},
    "root": {"type": "path"},
}
"""The options of the doc fragment `msharefs`."""

PROGRAM_OPTIONS = {
    "boot": {"type": "bool"},
    "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
}
"""The options of the doc fragment `program`."""


def spec_fields(params: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The module parameters that make up a spec; what was not given stays out."""
    return {key: params[key] for key in keys if params[key] not in (None, [])}


def program(module: AnsibleModule) -> list[str]:
    """The command line of the library on this host; Unavailable, with the next step, without one."""
    path: str = module.params["executable"]
    if not module.check_mode and not os.access(path, os.X_OK):
        raise Unavailable(
            f"{path} is missing on this host, but regions and clients need it to run; install it"
            " with the role dbmem.mshare.runtime, or name another with executable"
        )
    return [path]


def attempt(module: AnsibleModule, action: Callable[[], Any]) -> Any:
    """Call an action; what goes wrong becomes the module's failure."""
    try:
        return action()
    except (MshareError, OSError) as error:
        fail(module, error)


def fail(module: AnsibleModule, error: MshareError | OSError) -> NoReturn:
    """End the module with an error as one sentence and its kind."""
    ended: Callable[..., NoReturn] = module.fail_json
    ended(msg=sentence(error), error_kind=kind(error))


def end(module: AnsibleModule, results: dict[str, Any]) -> NoReturn:
    """End the module with its results, among them the sentences to warn of, and whether it failed."""
    for text in results.pop("warnings", []):
        module.warn(text)
    ended: Callable[..., NoReturn] = module.fail_json if results.pop("failed", False) else module.exit_json
    ended(**results)
