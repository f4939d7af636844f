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
      - Fail if the interpreter lacks modules that the library imports, or if O(preload=true) lacks a compiler. With V(false),
        this is only reported.
    type: bool
    default: true
  preload:
    description:
      - Build the library that C(mshare run) preloads into programs, with the host's C compiler, as
        C(libmshare-preload.so) in O(directory). It is built again if its sources change.
      - With V(false), an existing one stays until O(state=absent), because a database may be started with it.
    type: bool
    default: false
  preload_sources:
    description:
      - The sources of that library, as C(preload/src/NAME) and text. Set by the collection itself; a task cannot change it.
    type: dict
    default: {}
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

import os
import pkgutil

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils import mshare as library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import Unavailable
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload import library as preload_library
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime import install, manifest


def _shipped():
    """Never called: Ansible sends to the host what a module's source imports, here the whole library."""
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.base
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.choose
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.connect
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.kernel
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.mapping
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.root
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.simulated.backend
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.simulated.layout
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.simulated.watch
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends.simulated.window
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.attach
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.clients
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.clients_run
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.clients_start
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.clients_status
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.completion
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.display
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.info
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.map
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.model
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.mount
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.options
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.own
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.plan
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.preload
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.program
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.progress
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.regions
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.run
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.screen
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.survey
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.cli.validate
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.client
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.converge
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.launcher
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.roll
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.span
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.spec
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.status
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.memory
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.request
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.spec
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.files
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.accounts
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.fragmentation
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.huge_pages
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.limits
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.mounts
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.pagemap
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.processes
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.procfs
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.procmap
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.host.segments
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.info.attached
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.info.facts
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.info.inventory
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel._libc
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.abi
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.base
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.v2022_06
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.v2024_09
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.v2025_01
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.v2025_04
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.generations.v2025_08
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.probe
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.kernel.syscalls
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.labels
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.converge
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.msharefs
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.preflight
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.spec
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.units
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.pagetable
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.paths
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.facts
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.paste
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.plan
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.remedies
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.text
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.account
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.ask
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.clusters
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.configuration
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.converge
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.files
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.choose
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.containers
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.evidence
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.keepers
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.manager
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.patroni
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.pg_ctlcluster
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.systemd_unit
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.managers.unknown
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.placement
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.probe
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.server
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.spec
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload.library
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload.loader
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.preload.settings
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.record
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.converge
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.mailing_list
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.owner
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.pattern
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.preflight
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.region
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.rules
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.spec
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.status
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.units
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime.install
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.runtime.manifest
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.assess
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.baseline
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.clients_seen
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.figure
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.programs
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.table
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.validate
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.verdict
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.choose
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.detached
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.lock
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.notify
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.signals
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.status_file
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.supervisor
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.services.systemd
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.attribution
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.databases
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.host
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.prometheus
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.record
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.survey
    import ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units


def sources(preload):
    """The library as it came with this module and its action plugin: path below the package -> text."""
    found = {"__init__.py": library.__loader__.get_source(library.__name__)}
    # Not pkgutil.walk_packages: that imports the packages, which a host that lacks click cannot, and leaves out
    # what is in them.
    folders = [("", path) for path in library.__path__]
    for below, folder in folders:
        for entry in pkgutil.iter_modules([folder]):
            finder = entry.module_finder
            # A payload is read from its zip file, whose finder is the loader; Python 3.9's knows no find_spec.
            loader = finder if hasattr(finder, "get_source") else finder.find_spec(entry.name).loader
            text = loader.get_source(entry.name)
            if entry.ispkg:
                folders.append((below + entry.name + "/", os.path.join(folder, entry.name)))
                found[below + entry.name + "/__init__.py"] = text
            else:
                found[below + entry.name + ".py"] = text
    return {**found, **preload}


def converge(module):
    params = module.params
    place = manifest.Place(params["directory"], params["executable"], params["python"])
    if params["state"] == "absent":
        return [], False, install.absent(place, check=module.check_mode)
    missing = install.missing_imports(place.python)
    if missing and params["require_imports"] and not module.check_mode:
        raise Unavailable(install.missing_sentence(place.python, missing))
    wanted = params["preload"] or install.has_preload(place)
    shipped = sources(params["preload_sources"])
    uncompiled = wanted and install.lacks_compiler(place, shipped)
    if uncompiled and params["require_imports"] and not module.check_mode:
        preload_library.compiler()
    preload = wanted and (module.check_mode or not uncompiled)
    outcome = install.present(place, shipped, preload=preload, check=module.check_mode, runs=not missing)
    return missing, uncompiled, outcome


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "directory": {"type": "path", "default": "/usr/local/lib/mshare"},
            "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
            "require_imports": {"type": "bool", "default": True},
            "preload": {"type": "bool", "default": False},
            # From the action plugin: Ansible itself ships Python only. Not for the log, for its length.
            "preload_sources": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    missing, uncompiled, outcome = _module.attempt(module, lambda: converge(module))
    _module.report(
        module,
        outcome,
        missing_imports=missing,
        missing_compiler=uncompiled,
        version=library.__version__,
    )


if __name__ == "__main__":
    main()
