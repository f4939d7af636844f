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
  - Keeps a number of processes running, each of which attaches to a region by itself. They are children of one launcher,
    which systemd keeps where it runs (C(mshare-clients@NAME.service)), and which is a detached process elsewhere.
  - Without a O(command) the clients are the library's own. They open, look up and map the region, touch it, verify what the
    owner wrote, report what their page tables cost, and wait.
  - A client that dies is reported in RV(clients.dead) and never counted as attached.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
  - dbmem.mshare.program
options:
  region:
    description:
      - The region to attach to.
    type: str
    required: true
  state:
    description:
      - Whether clients should run.
    type: str
    choices: [present, absent]
    default: present
  count:
    description:
      - How many, from 1 to 32768. Required if O(state=present).
      - Another number is started or ended among those that run; anything else that differs starts all of them anew.
    type: int
  command:
    description:
      - A program of your own and its arguments, run O(count) times. It finds the region in its environment as
        E(MSHARE_REGION), E(MSHARE_PATH), E(MSHARE_ADDRESS), E(MSHARE_WINDOW_BYTES), E(MSHARE_MAPPED_BYTES), E(MSHARE_BACKEND),
        E(MSHARE_GENERATION) and E(MSHARE_CLIENT_NUMBER).
    type: list
    elements: str
  touch:
    description:
      - Whether clients of the library touch the region, or only attach.
    type: bool
    default: true
  span:
    description:
      - How much of the region each touches, like V(64GiB). Left out, it is fitted to the host's free memory, since on the
        simulated backend every client really pays for its page tables; see RV(clients.span_bytes).
    type: str
  stride:
    description:
      - One page is touched every so many bytes. One in 2 MiB costs the same page tables as all of them.
    type: str
    default: 2MiB
  settle_seconds:
    description:
      - A O(command) that ends within this time counts as failed, and then none is left running.
    type: int
    default: 1
  restart_dead:
    description:
      - Start clients again that died.
    type: bool
    default: false
  restart_outdated:
    description:
      - Start all clients anew if their launcher runs another version of the library than is installed. Without it they go on, with
        a warning.
    type: bool
    default: false
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

- name: Run a program of my own 20 times
  dbmem.mshare.mshare_clients:
    region: sga
    count: 20
    command: [/usr/local/bin/reader, --threads, '1']

- name: End them
  dbmem.mshare.mshare_clients:
    region: sga
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["start 100 clients of region sga"]
clients:
  description: The clients as they are now. Empty in check mode before they were first started, and when they are absent.
  returned: success
  type: dict
  contains:
    requested:
      description: How many there should be.
      type: int
      sample: 100
    attached:
      description: How many live and are attached.
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
      description: What went wrong, one sentence each.
      type: list
      elements: str
      sample: []
    span_bytes:
      description: How much of the region each touches.
      type: int
      sample: 31138512896
    attach_ms_median:
      description: How long it took to open, look up and map the region, measured.
      type: float
      sample: 0.8
    vm_pte_after_bytes_sum:
      description: Page tables (VmPTE) of all attached clients, measured.
      type: int
      sample: 6291456000
boot:
  description: What comes back after a reboot, apart from what is there now.
  returned: success
  type: dict
  sample: {"managed": true, "enabled": true, "reason": null}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: invalid_request
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.clients import (
    clients_absent,
    clients_present,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.spec import ClientsSpec

SPEC_KEYS = (
    "region",
    "count",
    "command",
    "touch",
    "span",
    "stride",
    "settle_seconds",
    "backend",
    "root",
)


def converge(module):
    params = module.params
    if params["state"] == "absent":
        return clients_absent(
            params["region"], backend=params["backend"], root=params["root"], check=module.check_mode
        )
    spec = ClientsSpec.from_dict(_module.spec_fields(params, SPEC_KEYS))
    return clients_present(
        spec,
        _module.program(module),
        restart_dead=params["restart_dead"],
        restart_outdated=params["restart_outdated"],
        boot=params["boot"],
        check=module.check_mode,
    )


def main():
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            **_module.PROGRAM_OPTIONS,
            "region": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "count": {"type": "int"},
            "command": {"type": "list", "elements": "str"},
            "touch": {"type": "bool", "default": True},
            "span": {"type": "str"},
            "stride": {"type": "str", "default": "2MiB"},
            "settle_seconds": {"type": "int", "default": 1},
            "restart_dead": {"type": "bool", "default": False},
            "restart_outdated": {"type": "bool", "default": False},
        },
        required_if=[("state", "present", ["count"])],
        supports_check_mode=True,
    )
    outcome = _module.attempt(module, lambda: converge(module))
    _module.report(module, outcome, clients=outcome.facts)


if __name__ == "__main__":
    main()
