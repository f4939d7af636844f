#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_region
short_description: Manage regions of memory whose page tables are shared
version_added: 0.1.0
description:
  - Sees to it that a region exists and that its owner runs. The owner is the long-lived process that a region lives and dies
    with; it is kept by systemd where that runs (C(mshare-region@NAME.service)), and is a detached process elsewhere.
  - A region's window (address space, a multiple of 512 GiB on x86-64) and its mapped size (memory) are two figures. Only what
    is touched takes memory.
  - A region's size and mappings are set once. A region that differs in them is never replaced unless told to.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
  - dbmem.mshare.program
options:
  name:
    description:
      - The region's name, of letters, digits, C(_) and C(.).
    type: str
    required: true
  state:
    description:
      - Whether the region should exist. V(absent) ends its owner, and is refused while clients are attached.
    type: str
    choices: [present, absent]
    default: present
  size:
    description:
      - The size of one anonymous mapping, like V(300GiB). Either this or O(mappings) is needed for a region.
    type: str
  mappings:
    description:
      - The objects in the region. Each lies at an offset, or behind the one before it.
    type: list
    elements: dict
    suboptions:
      kind:
        description:
          - V(anonymous) memory, memory in V(hugetlb) pages of 2 MiB, or a V(file), which is meant if O(mappings[].path) is given.
        type: str
        choices: [anonymous, hugetlb, file]
      size:
        description:
          - How much of it is mapped, like V(64GiB).
        type: str
        required: true
      offset:
        description:
          - Where in the region it lies, in bytes or like V(1GiB).
        type: str
      path:
        description:
          - The file.
        type: path
      file_offset:
        description:
          - Where in the file the mapping begins.
        type: str
      protection:
        description:
          - V(r) to read only, V(rw) to read and write. Files are V(r) if it is left out, memory V(rw).
        type: str
        choices: [r, rw]
  window:
    description:
      - A window larger than the mappings need, to map more later.
    type: str
  address:
    description:
      - The address at which every process has it, for the generations before 2025-04; a multiple of the alignment.
    type: str
  mode:
    description:
      - The mode of the region's file, as an octal number in quotes. Who may open a region may in practice write to it.
    type: str
    default: '0600'
  owner:
    description:
      - The user to whom the region's file belongs.
    type: str
  group:
    description:
      - The group to which the region's file belongs.
    type: str
  overcommit:
    description:
      - Consent to a region larger than the host's memory, of which only a part will be touched.
    type: bool
    default: false
  prefault:
    description:
      - Have the owner touch every page before the region is ready, as databases need it. 300 GiB take minutes.
    type: bool
    default: false
  pattern:
    description:
      - Have the owner leave bytes in the memory that clients verify. For trials, not for a database.
    type: bool
    default: false
  memory_max:
    description:
      - The most memory that the region may take, enforced by systemd on its slice. When it is reached, the owner is ended and
        the clients with it.
    type: str
  before:
    description:
      - systemd units that start after the region and stop before it, such as the database's.
    type: list
    elements: str
    default: []
  recreate:
    description:
      - Replace a region whose size or mappings differ, and what is in it. Attached clients prevent that unless O(force=true).
    type: bool
    default: false
  replace_stale:
    description:
      - Replace a region whose owner was killed.
    type: bool
    default: false
  replace_outdated:
    description:
      - Replace a region, and what is in it, whose owner runs another version of the library than is installed. Without it such an
        owner goes on, with a warning. Attached clients prevent it unless O(force=true).
    type: bool
    default: false
  force:
    description:
      - End, with O(recreate=true), O(replace_outdated=true) or O(state=absent), the clients that are attached.
    type: bool
    default: false
seealso:
  - module: dbmem.mshare.mshare_mount
  - module: dbmem.mshare.mshare_clients
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: A region for the SGA, ready before the database starts
  dbmem.mshare.mshare_region:
    name: sga
    size: 300GiB
    group: dba
    mode: '0660'
    prefault: true
    memory_max: 310GiB
    before: [oracle.service]

- name: Large files on persistent memory, mapped once for thousands of processes
  dbmem.mshare.mshare_region:
    name: tables
    mappings:
      - path: /pmem/orders.dat
        size: 64GiB
      - path: /pmem/customers.dat
        size: 16GiB

- name: Remove it
  dbmem.mshare.mshare_region:
    name: sga
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["create region sga of 300 GiB at /run/msharefs", "write /etc/mshare/regions/sga.json"]
region:
  description: The region as it is now. Empty in check mode on a host without msharefs, and when it is absent.
  returned: success
  type: dict
  sample: {"name": "sga", "health": "healthy", "window_bytes": 549755813888, "mapped_bytes": 322122547200, "owner": {"pid": 4711, "alive": true, "version": "0.1.0"}}
boot:
  description: What comes back after a reboot, apart from what is there now.
  returned: success
  type: dict
  sample: {"managed": true, "enabled": true, "reason": null}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: conflict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.regions import (
    region_absent,
    region_present,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.spec import RegionSpec
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.supervisor import systemd_runs

SPEC_KEYS = (
    "name",
    "size",
    "mappings",
    "window",
    "address",
    "mode",
    "owner",
    "group",
    "backend",
    "root",
    "overcommit",
    "prefault",
    "pattern",
    "memory_max",
    "before",
)


def converge(module):
    params = module.params
    if params["state"] == "absent":
        return region_absent(
            params["name"],
            backend=params["backend"],
            root=params["root"],
            force=params["force"],
            check=module.check_mode,
        )
    spec = RegionSpec.from_dict(_module.spec_fields(params, SPEC_KEYS))
    return region_present(
        spec,
        _module.program(module),
        recreate=params["recreate"],
        replace_stale=params["replace_stale"],
        replace_outdated=params["replace_outdated"],
        force=params["force"],
        boot=params["boot"],
        check=module.check_mode,
    )


def main():
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            **_module.PROGRAM_OPTIONS,
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "size": {"type": "str"},
            "mappings": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "kind": {"type": "str", "choices": ["anonymous", "hugetlb", "file"]},
                    "size": {"type": "str", "required": True},
                    "offset": {"type": "str"},
                    "path": {"type": "path"},
                    "file_offset": {"type": "str"},
                    "protection": {"type": "str", "choices": ["r", "rw"]},
                },
            },
            "window": {"type": "str"},
            "address": {"type": "str"},
            "mode": {"type": "str", "default": "0600"},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "overcommit": {"type": "bool", "default": False},
            "prefault": {"type": "bool", "default": False},
            "pattern": {"type": "bool", "default": False},
            "memory_max": {"type": "str"},
            "before": {"type": "list", "elements": "str", "default": []},
            "recreate": {"type": "bool", "default": False},
            "replace_stale": {"type": "bool", "default": False},
            "replace_outdated": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    outcome = _module.attempt(module, lambda: converge(module))
    if module.params["state"] == "present" and not systemd_runs():
        for option in ("memory_max", "before"):
            if module.params[option]:
                module.warn(f"{option} has no effect on this host: systemd does not run here")
    _module.report(module, outcome, region=outcome.facts)


if __name__ == "__main__":
    main()
