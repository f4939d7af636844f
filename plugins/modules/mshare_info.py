#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_info
short_description: Tell whether a host can share page tables, and what does
version_added: 0.1.0
description:
  - Answers whether mshare can be used on a host and why, or why not; which generation of the kernel interface it speaks and
    with which features; and which mounts, regions, owners and clients there are.
  - Needs nothing installed on the host but Python, and changes nothing.
  - An answer that is not known is V(null); nothing is guessed.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
  - dbmem.mshare.msharefs
options:
  probe:
    description:
      - A kernel's generation is found by asking a scratch file, which has lost its name before it is asked. V(false) leaves
        even that out; the generation is then not known.
    type: bool
    default: true
seealso:
  - module: dbmem.mshare.mshare_mount
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Look at mshare on a host
  dbmem.mshare.mshare_info:
  register: mshare

- name: Say why
  ansible.builtin.debug:
    msg: "{{ mshare.reasons }}"
"""

RETURN = r"""
supported:
  description: Whether regions can be made on this host, on whichever backend O(backend) allows.
  returned: always
  type: bool
  sample: true
kernel_supported:
  description: Whether this kernel has msharefs.
  returned: always
  type: bool
  sample: false
reasons:
  description: Why, one sentence each, on success and on failure.
  returned: always
  type: list
  elements: str
  sample: ["kernel 6.12.0 has no msharefs in /proc/filesystems, so the simulated backend is used"]
backend:
  description: The backend that O(backend) stands for here; V(null) if there is none.
  returned: always
  type: str
  sample: simulated
root:
  description: Where it is, or would be, mounted.
  returned: always
  type: str
  sample: /run/msharefs
mounted:
  description: Whether it is mounted.
  returned: always
  type: bool
  sample: true
mounts:
  description: Every msharefs on this host, with generation, features, alignment and access.
  returned: always
  type: list
  elements: dict
  sample: [{"root": "/run/msharefs", "backend": "simulated", "generation": "2025-08", "alignment_bytes": 549755813888}]
regions:
  description:
    - Every region with its window (address space) and what is mapped in it (memory), its mappings, owner and clients.
    - C(health) is V(healthy), V(starting), V(stale) (the owner is gone), V(missing) (the file is gone) or
      V(unknown) (kept by a version of the library whose status files this one cannot read).
  returned: always
  type: list
  elements: dict
  sample: [{"name": "sga", "health": "healthy", "window_bytes": 549755813888, "mapped_bytes": 322122547200}]
memory:
  description: The host's memory and page tables, measured.
  returned: always
  type: dict
  sample: {"total_bytes": 25200000000, "available_bytes": 24100000000, "page_tables_bytes": 3145728}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.info import inventory


def main():
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
