#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_clients
short_description: Run processes that attach to a region
version_added: 0.1.0
description:
  - Keeps a number of processes running, each of which attaches to a region. They are children of one launcher. systemd manages
    the launcher if it runs (C(mshare-clients@NAME.service)); otherwise it is a detached process.
  - Without O(command) the clients are the library's own. They open, look up and map the region, touch it, verify what the
    owner wrote, report what their page tables cost, and wait.
  - A client that dies is reported in RV(clients.dead) and no longer counted as attached.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
  - dbmem.mshare.program
  - dbmem.mshare.entries.clients
seealso:
  - module: dbmem.mshare.mshare_region
  - module: dbmem.mshare.mshare_savings
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Attach 1,500 clients that touch the region
  dbmem.mshare.mshare_clients:
    region: sga
    count: 1500

- name: Run 20 processes of your own program
  dbmem.mshare.mshare_clients:
    region: sga
    count: 20
    command: [/usr/local/bin/reader, --threads, '1']

- name: Start clients of several regions
  dbmem.mshare.mshare_clients:
    clients:
      - {region: sales, count: 1500}
      - {region: ledger}
    count: 100

- name: Stop them
  dbmem.mshare.mshare_clients:
    region: sga
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["start 100 clients of region sga"]
regions:
  description: The result for each region, in the order of O(clients); one entry for a single O(region).
  returned: success, and failure if O(clients) was used
  type: list
  elements: dict
  sample: [{"region": "sga", "changed": false, "actions": [], "clients": {"attached": 100}, "boot": {"enabled": true}}]
clients:
  description: The clients as they are now. Empty if they are absent, and in check mode before their first start.
  returned: success with O(region)
  type: dict
  contains:
    requested:
      description: How many clients were requested.
      type: int
      sample: 100
    attached:
      description: How many are alive and attached.
      type: int
      sample: 100
    dead:
      description: Those that died, with number, pid and reason.
      type: list
      elements: dict
      sample: []
    version:
      description: The version of the library that their launcher runs.
      type: str
      sample: 0.1.0
    errors:
      description: Errors that clients reported, one sentence each.
      type: list
      elements: str
      sample: []
    client_kind:
      description:
        - What the clients are. V(lean) is the library's small program in C, V(python) the library's client in Python, which takes
          more memory, V(program) the program of O(command).
      type: str
      sample: lean
    client_kind_reason:
      description: Why the library's clients are not lean ones, for instance because there is no C compiler; otherwise null.
      type: str
      sample: null
    span_bytes:
      description: How much of the region each client touches.
      type: int
      sample: 31138512896
    attach_ms_median:
      description: How long opening, looking up and mapping the region took, in milliseconds, measured.
      type: float
      sample: 0.8
    vm_pte_after_bytes_sum:
      description: Page tables (C(VmPTE)) of all attached clients, measured.
      type: int
      sample: 6291456000
boot:
  description: What comes back after a reboot, as opposed to what exists now.
  returned: success with O(region)
  type: dict
  sample: {"managed": true, "enabled": true, "reason": null}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: invalid_request
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.converge import (
    ClientsAbsent,
    ClientsPresent,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.clients.spec import ClientsSpec

# The options that the spec of clients is made of, besides their region.
SPEC_OPTIONS = {
    "count": {"type": "int"},
    "command": {"type": "list", "elements": "str"},
    "touch": {"type": "bool", "default": True},
    "span": {"type": "str"},
    "stride": {"type": "str", "default": "2MiB"},
    "settle_seconds": {"type": "int", "default": 1},
}
EACH = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    **SPEC_OPTIONS,
    "restart_dead": {"type": "bool", "default": False},
    "restart_outdated": {"type": "bool", "default": False},
    "require_all": {"type": "bool", "default": False},
}
SPEC_KEYS = ("region", "backend", "root", *SPEC_OPTIONS)


def request(module: AnsibleModule, entry: dict[str, Any]) -> ClientsAbsent | ClientsPresent:
    """What is wanted of the clients of one region."""
    if entry["state"] == "absent":
        return ClientsAbsent(entry["region"], entry["backend"], entry["root"])
    return ClientsPresent(
        ClientsSpec.from_dict(_module.spec_fields(entry, SPEC_KEYS)),
        _module.program(module),
        restart_dead=entry["restart_dead"],
        restart_outdated=entry["restart_outdated"],
        require_all=entry["require_all"],
        boot=entry["boot"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            **_module.PROGRAM_OPTIONS,
            **_converge.one_or_many("region", "clients", EACH),
        },
        **_converge.either("region", "clients"),
        supports_check_mode=True,
    )
    entries = _converge.entries(module.params, "region", "clients")
    _converge.converge(module, "region", "clients", lambda: [request(module, entry) for entry in entries])


if __name__ == "__main__":
    main()
