#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_runtime
short_description: Install the mshare library and its command line on a host
version_added: 0.1.0
description:
  - Installs the Python library of this collection and the command line C(mshare), which keep regions and clients running; on a
    host with systemd also their units.
  - A manifest lists what was installed, and O(state=absent) removes exactly that.
  - Does not install the packages that the library needs; RV(missing_imports) lists the missing ones. The role
    P(dbmem.mshare.runtime#role) installs them.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
options:
  state:
    description:
      - Whether the library should be installed.
    type: str
    choices: [present, absent]
    default: present
  python:
    description:
      - The interpreter that runs the library.
    type: path
    default: /usr/bin/python3
  directory:
    description:
      - Where to install the library.
    type: path
    default: /usr/local/lib/mshare
  executable:
    description:
      - Where to install the command line.
    type: path
    default: /usr/local/bin/mshare
  require_imports:
    description:
      - Fail if the interpreter lacks modules that the library imports, or if O(preload=true) with O(preload_from=host) lacks a
        compiler. With V(false), this is only reported.
    type: bool
    default: true
  preload:
    description:
      - Build the library that C(mshare run) preloads into programs, with the host's C compiler, as
        C(libmshare-preload.so) in O(directory), and the program of lean clients, C(mshare-client). They are built again if their
        sources change.
      - With V(false), an existing preload stays until O(state=absent), because a database may be started with it.
    type: bool
    default: false
  preload_from:
    description:
      - Where the preload is built. With V(controller) it is built where Ansible runs, sent with its digest, and refused here if it is
        for another architecture or a newer glibc. The host needs no compiler then, and gets none.
      - With V(any) it is built on a host that has a compiler, and otherwise on the controller.
    type: str
    choices: [host, controller, any]
    default: host
  preload_built:
    description:
      - The preload and the program of lean clients, built on the controller, packed. Set by the collection itself; a task cannot change it.
    type: str
    default: ""
  sources:
    description:
      - The sources of the library, packed. Set by the collection itself; a task cannot change it.
    type: str
    default: ""
seealso:
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Install the library
  dbmem.mshare.mshare_runtime:

- name: Install it with the preload, for databases
  dbmem.mshare.mshare_runtime:
    preload: true

- name: Install it with the preload on hosts without a compiler
  dbmem.mshare.mshare_runtime:
    preload: true
    preload_from: any

- name: Remove it
  dbmem.mshare.mshare_runtime:
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["install version 0.1.0 of the library into /usr/local/lib/mshare"]
missing_imports:
  description: Python modules that the interpreter lacks.
  returned: success
  type: list
  elements: str
  sample: [cffi]
missing_compiler:
  description: Whether the preload was requested, but cannot be built because there is no C compiler.
  returned: success
  type: bool
  sample: false
version:
  description: The version of the library.
  returned: success
  type: str
  sample: 0.1.0
boot:
  description: What comes back after a reboot, as opposed to what exists now.
  returned: success
  type: dict
  sample: {}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: unavailable
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _module
from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import Unavailable
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import library as preload_library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import shipped as preload_shipped
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import install, manifest, sources


def converge(module: AnsibleModule) -> tuple[list[str], bool, Outcome[object]]:
    """The imports that are missing, whether a compiler is, and what was done."""
    params = module.params
    place = manifest.Place(params["directory"], params["executable"], params["python"])
    if params["state"] == "absent":
        return [], False, install.absent(place, check=module.check_mode)
    missing = install.missing_imports(place.python)
    if missing and params["require_imports"] and not module.check_mode:
        raise Unavailable(install.missing_sentence(place.python, missing))
    wanted = params["preload"] or install.has_preload(place)
    shipped = sources.unpack(params["sources"])
    built = preload_shipped.unpack(params["preload_built"]) if params["preload_built"] else None
    uncompiled = wanted and built is None and install.lacks_compiler(place, shipped)
    # With `any` the action plugin sends it next.
    required = params["require_imports"] and params["preload_from"] != "any"
    if uncompiled and required and not module.check_mode:
        preload_library.compiler()
    preload = wanted and (module.check_mode or not uncompiled)
    outcome = install.present(
        place, shipped, preload=preload, built=built, check=module.check_mode, runs=not missing
    )
    return missing, uncompiled, outcome


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "directory": {"type": "path", "default": "/usr/local/lib/mshare"},
            "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
            "require_imports": {"type": "bool", "default": True},
            "preload": {"type": "bool", "default": False},
            "preload_from": {"type": "str", "choices": ["host", "controller", "any"], "default": "host"},
            # From the action plugin. Not for the log, for their length.
            "preload_built": {"type": "str", "default": "", "no_log": True},
            "sources": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    missing, uncompiled, outcome = _module.attempt(module, lambda: converge(module))
    _converge.report(
        module,
        outcome,
        f"library in {module.params['directory']}",
        missing_imports=missing,
        missing_compiler=uncompiled,
        version=library.__version__,
    )


if __name__ == "__main__":
    main()
