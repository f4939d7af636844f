#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_mount
short_description: Mount msharefs, real or simulated
version_added: 0.1.0
description:
  - Mounts the file system through which processes share page tables, sets the mode and group of its root, and on a host with
    systemd mounts it again after a reboot.
  - A kernel mounts msharefs with mode 0777 and without the sticky bit, so that any user could remove any region. This module
    restricts that.
  - An existing mount is recognized in C(/proc/self/mountinfo). A mount that fails leaves nothing behind.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
options:
  state:
    description:
      - Whether msharefs should be mounted. V(absent) is refused while owners or clients use it, unless O(force=true).
    type: str
    choices: [present, absent]
    default: present
  generation:
    description:
      - Which generation of the kernel interface the simulated backend imitates. The default is the newest that was posted.
      - V(2026-05) was described and not posted, so no kernel has it.
    type: str
    choices: [2022-06, 2024-09, 2025-01, 2025-04, 2025-08, 2026-05]
  size:
    description:
      - The most memory that the simulated backend's tmpfs may use, like V(8GiB). The default is half of the host's memory.
    type: str
  mode:
    description:
      - The mode of the root, as an octal number in quotes.
    type: raw
    default: '1770'
  group:
    description:
      - The group of the root, whose members may create and see regions. It must exist unless you set O(create_group).
    type: str
  create_group:
    description:
      - Create O(group) if it does not exist. A group created by this module is removed together with the mount.
    type: bool
    default: false
  directories:
    description:
      - Directories for regions, such as one for each tenant. Region C(sales/sga) lies in directory C(sales).
      - Who may use the regions in a directory is decided by its group and mode. The directories are made again after a reboot.
      - A directory that is not listed stays as it is.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The name. Directories in directories, like V(sales/emea), are possible, three levels at most.
        type: str
        required: true
      group:
        description:
          - The group, which must exist. By default a new directory gets the group of what it is in, or that of its maker.
        type: str
      mode:
        description:
          - The mode, as an octal number in quotes. The default, V(3770), is for its group only, gives regions that group, and
            lets only the owner of a region remove it.
        type: raw
      state:
        description:
          - V(absent) removes the directory if it is empty, and is refused otherwise.
        type: str
        choices: [present, absent]
  boot:
    description:
      - Whether msharefs is mounted again after a reboot. By default it is on a host with systemd, and not elsewhere.
      - V(true) on a host without systemd is an error.
    type: bool
  force:
    description:
      - With O(state=absent), end the clients, owners and regions on it first, whether their files can be read or not. Their
        content is lost, and none of them comes back after a reboot.
      - Programs that mshare did not start are never ended. While one is attached, O(state=absent) is refused, and nothing is changed.
    type: bool
    default: false
seealso:
  - module: dbmem.mshare.mshare_info
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Mount the kernel's msharefs, or a simulated one, for a group
  dbmem.mshare.mshare_mount:
    group: dba

- name: Try an older generation without a special kernel
  dbmem.mshare.mshare_mount:
    backend: simulated
    generation: 2025-04
    size: 8GiB

- name: Give two tenants a directory each, which the other cannot look into
  dbmem.mshare.mshare_mount:
    mode: '1751'
    directories:
      - {name: sales, group: sales}
      - {name: payroll, group: payroll, mode: '3770'}

- name: Unmount it
  dbmem.mshare.mshare_mount:
    state: absent

- name: Unmount it with everything that runs on it
  dbmem.mshare.mshare_mount:
    state: absent
    force: true
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["mount the simulated msharefs at /run/msharefs", "set mode and group of /run/msharefs"]
backend:
  description: The backend that is, or would be, mounted.
  returned: success
  type: str
  sample: simulated
backend_reason:
  description: Why this backend was chosen.
  returned: success
  type: str
  sample: kernel 6.12.0 has no msharefs in /proc/filesystems, so the simulated backend is used
root:
  description: Where it is mounted.
  returned: success
  type: str
  sample: /run/msharefs
mount:
  description: What is mounted now. Empty if nothing is.
  returned: success
  type: dict
  sample:
    root: /run/msharefs
    backend: simulated
    generation: 2025-08
    alignment_bytes: 549755813888
    mode: "1751"
    directories: [{"name": "sales", "mode": "3770", "uid": 0, "gid": 1004}]
boot:
  description: What comes back after a reboot, as opposed to what exists now.
  returned: success
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

from ansible_collections.dbmem.mshare.plugins.module_utils import _module, _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.backends import choose
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.converge import (
    choose_absent,
    mount_absent,
    mount_present,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.converge import result as mount_result
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.mount.spec import MountSpec

SPEC_KEYS = ("generation", "size", "mode", "group", "create_group", "directories")
DIRECTORY_OPTIONS = {
    "name": {"type": "str", "required": True},
    "group": {"type": "str"},
    "mode": {"type": "raw"},
    "state": {"type": "str", "choices": ["present", "absent"]},
}


def converge(module: AnsibleModule) -> tuple[choose.Choice, Outcome[Any]]:
    root = module.params["root"]
    if module.params["state"] == "absent":
        choice = choose_absent(module.params["backend"], root)
        force = module.params["force"]
        return choice, mount_absent(choice.root, force=force, check=module.check_mode)
    choice = choose.choose(module.params["backend"])
    choice = choice._replace(root=root or choice.root)
    fields = _module.spec_fields(module.params, SPEC_KEYS)
    spec = MountSpec.from_dict({"backend": choice.backend, "root": choice.root, **fields})
    return choice, mount_present(spec, boot=module.params["boot"], check=module.check_mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "generation": {
                "type": "str",
                "choices": ["2022-06", "2024-09", "2025-01", "2025-04", "2025-08", "2026-05"],
            },
            "size": {"type": "str"},
            "mode": {"type": "raw", "default": "1770"},
            "group": {"type": "str"},
            "create_group": {"type": "bool", "default": False},
            "directories": {"type": "list", "elements": "dict", "options": DIRECTORY_OPTIONS},
            "boot": {"type": "bool"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    choice, outcome = _module.attempt(module, lambda: converge(module))
    answer = mount_result(choice, outcome)
    _module.end(module, _results.converged(answer, f"msharefs at {choice.root}"))


if __name__ == "__main__":
    main()
