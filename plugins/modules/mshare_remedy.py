#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_remedy
short_description: Apply what the plan recommends for the PostgreSQL servers of a host, and undo it
version_added: 0.1.0
description:
  - Surveys the host, plans, and applies one remedy to each PostgreSQL server whose page tables are worth it. Every step is verified.
  - Everything is tried as a check run first. A server that something else manages (Patroni, another cluster manager, a container),
    a remedy that is not open to a server, and a pool that does not fit the host's memory are refused before anything is changed.
  - Before it changes anything, it writes down on the host what it is about to do, in C(/etc/mshare/remedy.json).
    O(state=absent) undoes exactly that, byte for byte.
  - If a step fails, what this run had done is undone, in the opposite order, and the module fails.
  - Other databases are reported and left alone.
  - Needs root. Some remedies need what M(dbmem.mshare.mshare_runtime) installs, which RV(needs_library) and RV(needs_program) of a
    check run tell. The role P(dbmem.mshare.remedy#role) does all of it.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
options:
  state:
    description:
      - V(present) applies remedies, V(absent) undoes what earlier runs recorded.
    type: str
    choices: [present, absent]
    default: present
  remedy:
    description:
      - V(auto) is what the plan recommends for each server. A server that an earlier run changed keeps its remedy.
      - V(native) reserves huge pages and has PostgreSQL use them by its own setting.
      - V(hugetlb) reserves them as well, and has the preloaded library place the memory, at an address where more page tables are
        shared.
      - V(thp) are transparent huge pages through the preloaded library, without a pool.
      - V(collapse) puts the memory of the running server into huge pages, and has a service do so again after each restart. A server
        whose memory does not lie right for that is started with the preloaded library, which places it right.
    type: str
    choices: [auto, native, hugetlb, collapse, thp]
    default: auto
  instances:
    description:
      - The servers, by the names that C(mshare survey) shows, like V(postgresql 5432). By default all PostgreSQL servers of the host.
    type: list
    elements: str
    default: []
  restart:
    description:
      - Whether servers may be restarted, which ends their connections. With V(false), files are written, the pool is reserved, and
        RV(restart_required) is reported.
    type: bool
    default: false
  probes:
    description:
      - How many connections measure page tables before and after a restart. With V(0), nothing is measured.
    type: int
    default: 10
  rate:
    description:
      - How much is collapsed per second at most, like V(200MiB), or V(unlimited). By default the work takes at most a quarter of the
        time.
    type: str
  interval:
    description:
      - How many seconds pass between two looks of the service that collapses again.
    type: float
    default: 30
  spare:
    description:
      - What the pool has beyond what is needed, as a number of pages or a size like V(64MiB).
    type: str
    default: '8'
  share_of_ram_max:
    description:
      - How much of the RAM the pool may take. More is refused.
    type: float
    default: 0.7
  persist:
    description:
      - Whether the pool is reserved at boot as well.
    type: bool
    default: true
  library:
    description:
      - The path of the preloaded library on the host.
    type: path
    default: /usr/local/lib/mshare/libmshare-preload.so
  executable:
    description:
      - The command line of the library on the host.
    type: path
    default: /usr/local/bin/mshare
seealso:
  - module: dbmem.mshare.mshare_plan
  - module: dbmem.mshare.mshare_huge_pages
  - module: dbmem.mshare.mshare_postgresql
  - module: dbmem.mshare.mshare_collapse
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Show what would be done
  dbmem.mshare.mshare_remedy:
  check_mode: true

- name: Apply what the plan recommends, and restart servers for it
  dbmem.mshare.mshare_remedy:
    restart: true

- name: Undo it
  dbmem.mshare.mshare_remedy:
    state: absent
    restart: true
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["restart PostgreSQL cluster 15-main, because the segment is not in the pool of huge pages"]
instances:
  description: Every instance of the host, with its remedy and what came of it.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name in the survey.
      type: str
      sample: postgresql 5432
    cluster:
      description: The PostgreSQL cluster. Empty if nothing is done.
      type: str
      sample: 15-main
    remedy:
      description: The remedy. Empty if nothing is done.
      type: str
      sample: native
    reason:
      description: Why this remedy, or why none.
      type: str
      sample: the plan recommends it
    changed:
      description: Whether anything was changed, or in check mode would be.
      type: bool
      sample: true
    restarted:
      description: Whether the server was restarted.
      type: bool
      sample: true
    restart_required:
      description: Whether it is to be restarted to take effect.
      type: bool
      sample: false
    restart_reason:
      description: Why it is to be restarted.
      type: str
      sample: segment inode 1035 is not in the pool of huge pages
    memory:
      description: Where its shared memory is, from the maps of its postmaster.
      type: str
      sample: "segment /anon_hugepage (hugetlb, 144 MiB at 0x7f6e40000000, 144 MiB of it in huge pages)"
    huge_bytes:
      description: How much of it the postmaster maps with huge pages.
      type: int
      sample: 150994944
    measured:
      description: Page tables before and after, in bytes, of the same processes, or of as many connections that touched as much.
      type: list
      elements: dict
      sample: [{"processes": 10, "before_bytes": 6881280, "after_bytes": 1187840, "how": "measured"}]
    service:
      description: Whether a service collapses its memory again after each restart.
      type: bool
      sample: false
pool:
  description: The pool of huge pages, with its C(page_bytes), the pages C(before), and its C(pages) now. Empty if no remedy needs it.
  returned: success
  type: dict
  sample: {"page_bytes": 2097152, "before": 0, "pages": 80}
page_tables_before_bytes:
  description: Page tables of the whole host before, from C(/proc/meminfo).
  returned: success
  type: int
  sample: 51380224
page_tables_after_bytes:
  description: The same afterwards. Empty in check mode.
  returned: success
  type: int
  sample: 20971520
needs_library:
  description: Whether the preloaded library has to be installed first.
  returned: success
  type: bool
  sample: false
needs_program:
  description: Whether the command line has to be installed first.
  returned: success
  type: bool
  sample: false
restart_required:
  description: Whether a server is to be restarted and O(restart) does not allow it.
  returned: success
  type: bool
  sample: false
recorded:
  description: Whether something is recorded on the host that O(state=absent) undoes.
  returned: success
  type: bool
  sample: true
plan:
  description:
    - What the plan that it was decided by says of the host and of each instance, line by line. Empty with O(state=absent).
    - M(dbmem.mshare.mshare_plan) returns all of it.
  returned: success
  type: list
  elements: str
  sample: ["postgresql 5432: at risk: page tables 91.2 MiB now (measured), 774 MiB at the maximum (projected)."]
summary:
  description: The result for people, line by line.
  returned: success
  type: list
  elements: str
  sample: ["postgresql 5432 (15-main): native, changed."]
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: conflict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module, _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.collapse.spec import rate
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.remedy.converge import absent, present
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.remedy.result import Result
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.remedy.spec import RemedySpec


def converge(module: AnsibleModule) -> Result:
    params = module.params
    spec = RemedySpec(
        remedy=params["remedy"],
        instances=tuple(params["instances"]),
        restart=params["restart"],
        probes=params["probes"],
        rate_bytes=rate(params["rate"]),
        interval_seconds=params["interval"],
        spare=params["spare"],
        share_of_ram_max=params["share_of_ram_max"],
        persist=params["persist"],
        library=params["library"],
        program=(params["executable"],),
    )
    if params["state"] == "absent":
        return absent(spec, check=module.check_mode)
    return present(spec, check=module.check_mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "remedy": {
                "type": "str",
                "choices": ["auto", "native", "hugetlb", "collapse", "thp"],
                "default": "auto",
            },
            "instances": {"type": "list", "elements": "str", "default": []},
            "restart": {"type": "bool", "default": False},
            "probes": {"type": "int", "default": 10},
            "rate": {"type": "str"},
            "interval": {"type": "float", "default": 30},
            "spare": {"type": "str", "default": "8"},
            "share_of_ram_max": {"type": "float", "default": 0.7},
            "persist": {"type": "bool", "default": True},
            "library": {"type": "path", "default": "/usr/local/lib/mshare/libmshare-preload.so"},
            "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
        },
        supports_check_mode=True,
    )
    result: Result = _module.attempt(module, lambda: converge(module))
    answer: dict[str, Any] = result.to_dict()
    _module.end(module, _results.remedied(answer))


if __name__ == "__main__":
    main()
