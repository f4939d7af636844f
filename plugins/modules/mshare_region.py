#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_region
short_description: Create and remove regions of memory whose page tables are shared
version_added: 0.1.0
description:
  - Ensures that a region exists and that its owner runs. The owner is the long-lived process that a region lives and dies
    with. systemd manages it if it runs (C(mshare-region@NAME.service)); otherwise it is a detached process.
  - A region has a window (address space, a multiple of 512 GiB on x86-64) and a mapped size (memory). Only what is touched
    takes memory.
  - A region's size and mappings are fixed when it is created. A region that differs is only replaced if an option allows it.
  - Results are in bytes, in keys that end in C(_bytes).
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
  - dbmem.mshare.program
  - dbmem.mshare.entries.region
seealso:
  - module: dbmem.mshare.mshare_mount
  - module: dbmem.mshare.mshare_clients
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Create a region for the SGA before the database starts
  dbmem.mshare.mshare_region:
    name: sga
    size: 300GiB
    group: dba
    mode: '0660'
    prefault: true
    memory_max: 310GiB
    before: [oracle.service]

- name: Map large files on persistent memory once for thousands of processes
  dbmem.mshare.mshare_region:
    name: tables
    mappings:
      - path: /pmem/orders.dat
        size: 64GiB
      - path: /pmem/customers.dat
        size: 16GiB

- name: Create regions for several databases; options apply to every entry that does not set them
  dbmem.mshare.mshare_region:
    regions:
      - {name: sales, size: 300GiB, before: [oracle-sales.service]}
      - {name: ledger, size: 64GiB, before: [oracle-ledger.service]}
    group: dba
    mode: '0660'
    prefault: true

- name: Remove the region
  dbmem.mshare.mshare_region:
    name: sga
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["create region sga of 300 GiB at /run/msharefs", "write /etc/mshare/regions/sga.json"]
regions:
  description: The result for each region, in the order of O(regions); one entry for a single O(name).
  returned: success, and failure if O(regions) was used
  type: list
  elements: dict
  sample: [{"name": "sga", "changed": false, "actions": [], "region": {"health": "healthy"}, "boot": {"enabled": true}}]
region:
  description: The region as it is now. Empty if it is absent, and in check mode on a host without msharefs.
  returned: success with O(name)
  type: dict
  sample: {"name": "sga", "health": "healthy", "window_bytes": 549755813888, "mapped_bytes": 322122547200, "owner": {"pid": 4711, "version": "0.1.0"}}
boot:
  description: What comes back after a reboot, as opposed to what exists now.
  returned: success with O(name)
  type: dict
  sample: {"managed": true, "enabled": true, "reason": null}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: conflict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.converge import (
    RegionAbsent,
    RegionPresent,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.region.spec import RegionSpec

# The options that a region's spec is made of, besides its name.
SPEC_OPTIONS = {
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
    "mode": {"type": "raw", "default": "0600"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "overcommit": {"type": "bool", "default": False},
    "prefault": {"type": "bool", "default": False},
    "pattern": {"type": "bool", "default": False},
    "memory_max": {"type": "str"},
    "before": {"type": "list", "elements": "str", "default": []},
}
# How it may be brought to that.
CONSENTS = {
    "recreate": {"type": "bool", "default": False},
    "replace_stale": {"type": "bool", "default": False},
    "replace_outdated": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
}
STATE = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}
SPEC_KEYS = ("name", "backend", "root", *SPEC_OPTIONS)


def request(module: AnsibleModule, entry: dict[str, Any]) -> RegionAbsent | RegionPresent:
    """What is wanted of one region."""
    if entry["state"] == "absent":
        return RegionAbsent(entry["name"], entry["backend"], entry["root"], entry["force"])
    return RegionPresent(
        RegionSpec.from_dict(_module.spec_fields(entry, SPEC_KEYS)),
        _module.program(module),
        boot=entry["boot"],
        **{key: entry[key] for key in CONSENTS},
    )


def main() -> None:
    each = {**STATE, **SPEC_OPTIONS, **CONSENTS}
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            **_module.PROGRAM_OPTIONS,
            **_converge.one_or_many("name", "regions", each),
        },
        **_converge.either("name", "regions"),
        supports_check_mode=True,
    )
    entries = _converge.entries(module.params, "name", "regions", alternatives=("size", "mappings"))
    _converge.converge(module, "name", "region", lambda: [request(module, entry) for entry in entries])


if __name__ == "__main__":
    main()
