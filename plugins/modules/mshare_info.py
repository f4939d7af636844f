#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_info
short_description: Gather facts about mshare on a host
version_added: 0.1.0
description:
  - Shows whether mshare can be used on a host, and why or why not; the generation and features of its kernel interface; and
    its mounts, regions, owners and clients.
  - Needs only Python on the host, and changes nothing.
  - What is not known is V(null); nothing is guessed. Sizes are in bytes, in keys that end in C(_bytes).
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
  - dbmem.mshare.msharefs
options:
  probe:
    description:
      - Whether to probe the kernel's generation with a temporary file, which is unlinked first. With V(false), the generation
        remains unknown.
    type: bool
    default: true
seealso:
  - module: dbmem.mshare.mshare_mount
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Gather facts about mshare
  dbmem.mshare.mshare_info:
  register: mshare

- name: Show why it is supported or not
  ansible.builtin.debug:
    msg: "{{ mshare.reasons }}"
"""

RETURN = r"""
supported:
  description: Whether regions can be created on this host with a backend that O(backend) allows.
  returned: always
  type: bool
  sample: true
kernel_supported:
  description: Whether this kernel has msharefs.
  returned: always
  type: bool
  sample: false
reasons:
  description: Why mshare is supported or not, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["kernel 6.12.0 has no msharefs in /proc/filesystems, so the simulated backend is used"]
backend:
  description: The backend that O(backend) selects on this host; V(null) if there is none.
  returned: always
  type: str
  sample: simulated
root:
  description: Where msharefs is mounted, or would be.
  returned: always
  type: str
  sample: /run/msharefs
mounted:
  description: Whether msharefs is mounted there.
  returned: always
  type: bool
  sample: true
mounts:
  description: Every msharefs on this host, with generation, features, alignment, access and directories of regions.
  returned: always
  type: list
  elements: dict
  sample:
    - root: /run/msharefs
      backend: simulated
      generation: 2025-08
      alignment_bytes: 549755813888
      directories: [{"name": "sales", "mode": "3770", "uid": 0, "gid": 1004}]
regions:
  description:
    - Every region with its window (address space) and mapped size (memory), its mappings, owner and clients.
    - C(health) is V(healthy), V(starting), V(stale) (the owner is gone), V(missing) (the file is gone),
      V(unknown) (written by a version of the library whose status files this one cannot read, or not to be known by this user;
      see C(reason)) or V(unreadable) (one of its files is damaged; C(reason) names the file and the field).
    - C(source) says who knew it, V(root) (the kernel or the simulator, asked just now) or V(status file) (its owner).
  returned: always
  type: list
  elements: dict
  sample: [{"name": "sga", "health": "healthy", "window_bytes": 549755813888, "mapped_bytes": 322122547200}]
memory:
  description: The host's memory and page tables, measured.
  returned: always
  type: dict
  sample: {"total_bytes": 25200000000, "available_bytes": 24100000000, "page_tables_bytes": 3145728}
generations:
  description:
    - The interfaces of the kernel that this collection knows, with their features, whatever this host has.
    - C(status) is V(posted), or V(described, not posted) for one that no kernel has and only the simulated backend plays.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 2025-08
      status: posted
      origin: v3, August 2025, Anthony Yznaga
      features: {"nameless": false, "owner_bound": true, "partial_attach": false}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.info import inventory


def main() -> None:
    module = AnsibleModule(
        argument_spec={**_module.MSHAREFS_OPTIONS, "probe": {"type": "bool", "default": True}},
        supports_check_mode=True,
    )
    params = module.params
    facts = _module.attempt(
        module, lambda: inventory.host(params["backend"], params["root"], params["probe"]).to_fields()
    )
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
