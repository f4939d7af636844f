#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_huge_pages
short_description: Reserve huge pages for the databases of a host, now and at boot
version_added: 0.1.0
description:
  - Sets the size of the kernel's pools of huge pages, for the running kernel and for the next boot. The number of pages is given, or
    counted from the databases of the host.
  - Reads back how many pages the kernel granted. If it granted less than was asked for, the pool goes back to what it was and the
    module fails, with the figures.
  - Never takes away pages that somebody uses or has reserved. What does not fit is refused before anything is changed.
  - Records what was there before. O(state=absent) restores it, files byte for byte; so does leaving out something that an earlier
    run asked for. What somebody else has changed since stays as it is, with a warning.
  - Files of others that set the same thing at boot are not changed. They are reported as a conflict, in the order in which they take
    effect.
  - Settings for locked memory, for the group that may use huge pages, and for transparent huge pages are changed only if asked for.
  - Changes no database. For Oracle it returns the statements and limits to apply, and whether they have taken effect.
  - Needs root, except in check mode, and only Python on the host.
extends_documentation_fragment:
  - dbmem.mshare.attributes
attributes:
  async:
    support: full
  check_mode:
    support: full
    details:
      - Whether the kernel would grant the pages is known only when it is asked for them.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With V(auto), a database that was reconfigured since the last run needs another number of pages.
options:
  state:
    description:
      - V(present) applies what the other options ask for, V(absent) restores what was there before the first run.
    type: str
    choices: [present, absent]
    default: present
  pages:
    description:
      - The pools, one entry for each page size, or for each page size and NUMA node. Without entries no pool is changed.
    type: list
    elements: dict
    suboptions:
      size:
        description:
          - The size of the pages, one that the kernel has, like V(2MiB) or V(1GiB).
        type: str
        default: 2MiB
      node:
        description:
          - The NUMA node whose pool it is. Without it, the kernel spreads the pages over all nodes.
        type: int
      wanted:
        description:
          - The size of the whole pool, as a number of pages or as a size like V(24GiB). Pages in use are part of it.
          - V(auto) is what the databases of the host need at their next start, plus the pages that others hold, plus O(spare). For
            several nodes, it is divided evenly.
        type: str
        default: auto
  instances:
    description:
      - The instances that V(auto) counts, by the names that C(mshare survey) shows.
      - By default these are the PostgreSQL and Oracle instances that use huge pages at their next start. A PostgreSQL with
        C(huge_pages = off) and an Oracle with C(use_large_pages = false) are counted only if they are named here, and so is any
        other program.
    type: list
    elements: str
  spare:
    description:
      - What V(auto) adds, as a number of pages or as a size.
    type: str
    default: '8'
  share_of_ram_max:
    description:
      - How much of the RAM all pools together may take, above 0 and up to 1. More is refused.
    type: float
    default: 0.7
  live:
    description:
      - Whether the running kernel is changed. With V(false) it stays as it is.
    type: bool
    default: true
  persist:
    description:
      - Whether the same is set at boot, in C(/etc/sysctl.d) for the default page size, in C(/etc/tmpfiles.d) for NUMA nodes and other
        sizes. With V(false), what is set at boot stays as it is.
      - The kernel command line, which pages of 1 GiB need, is never changed; RV(boot) has what to add to it.
    type: bool
    default: true
  keep_partial:
    description:
      - Whether the pages are kept if the kernel grants less than was asked for. The module fails all the same.
    type: bool
    default: false
  shm_group:
    description:
      - The group that may use huge pages for SysV shared memory without further rights (C(vm.hugetlb_shm_group)), by name or number.
      - Refused if somebody else has given it to another group, because the kernel has only one.
    type: str
  memlock:
    description:
      - How much memory may be locked, one entry for each systemd service or user. Takes effect when the service is restarted or the user
        logs in.
    type: list
    elements: dict
    suboptions:
      unit:
        description:
          - A systemd service, which gets a drop-in with C(LimitMEMLOCK). Either this or O(memlock[].user).
        type: str
      user:
        description:
          - A user, who gets a file in C(/etc/security/limits.d).
        type: str
      limit:
        description:
          - A size with its unit, or V(unlimited). A bare number is refused, because it would be KiB in C(limits.conf) and bytes
            in systemd.
        type: str
        default: unlimited
  transparent:
    description:
      - The setting of transparent huge pages for ordinary memory (C(/sys/kernel/mm/transparent_hugepage/enabled)). Shared memory has
        another setting, which is left alone.
    type: str
    choices: [always, madvise, never]
seealso:
  - module: dbmem.mshare.mshare_plan
  - module: dbmem.mshare.mshare_postgresql
  - module: dbmem.mshare.mshare_collapse
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Show what the databases of the host need
  dbmem.mshare.mshare_huge_pages:
    pages:
      - wanted: auto
  check_mode: true

- name: Reserve it, now and at boot
  dbmem.mshare.mshare_huge_pages:
    pages:
      - wanted: auto
    spare: 64MiB

- name: Reserve pages for Oracle, half of them on each NUMA node, as its documentation asks
  dbmem.mshare.mshare_huge_pages:
    pages:
      - node: 0
        wanted: 64GiB
      - node: 1
        wanted: 64GiB
    shm_group: dba
    memlock:
      - user: oracle
    transparent: madvise

- name: Restore what was there before
  dbmem.mshare.mshare_huge_pages:
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["reserve 512 more of the pool of 2 MiB pages, which then has 520 (1 GiB)"]
pools:
  description: The pools that were asked for.
  returned: success, and if the kernel granted less than was asked for
  type: list
  elements: dict
  contains:
    page_bytes:
      description: The size of its pages.
      type: int
      sample: 2097152
    node:
      description: The NUMA node, or null for the whole host.
      type: int
      sample: 0
    wanted:
      description: How many pages it should have.
      type: int
      sample: 520
    before:
      description: How many it had, measured. Surplus pages, which the kernel takes back when they are freed, are not counted.
      type: int
      sample: 8
    granted:
      description: How many it has now, measured; in check mode as before.
      type: int
      sample: 520
    used:
      description: How many of them are in use or reserved, measured.
      type: int
      sample: 0
    formula:
      description: >-
        The terms that make up RV(pools[].wanted). Each has C(what) it is for, the number of C(pages), the C(source) of the figure,
        and its C(kind): C(measured) on this host, C(configured) in a database, C(modelled), or C(requested) here.
      type: list
      elements: dict
      sample:
        - {what: postgresql 5432, pages: 504, source: postgres -C shared_memory_size_in_huge_pages, kind: configured}
        - {what: pages that others hold, pages: 8, source: /sys/kernel/mm/hugepages/hugepages-2048kB, kind: measured}
        - {what: spare, pages: 8, source: spare, kind: requested}
live:
  description: The outcome for the running kernel.
  returned: success, and if the kernel granted less than was asked for
  type: dict
  contains:
    asked:
      description: Whether O(live) is V(true).
      type: bool
      sample: true
    state:
      description: >-
        C(as wanted), C(differs) where nothing was done (check mode), C(put back) after the kernel granted less, C(partial) with
        O(keep_partial), or C(not asked) with O(live=false).
      type: str
      sample: as wanted
    missing_pages:
      description: How many pages less than wanted the kernel granted when it was asked.
      type: int
      sample: 0
boot:
  description: The outcome for the next boot.
  returned: success, and if the kernel granted less than was asked for
  type: dict
  contains:
    asked:
      description: Whether O(persist) is V(true).
      type: bool
      sample: true
    state:
      description: >-
        C(as wanted), C(differs) where nothing was done, C(incomplete), where RV(boot.reasons) says what is missing, or C(not asked)
        with O(persist=false).
      type: str
      sample: as wanted
    files:
      description: The files of this module that set it.
      type: list
      elements: str
      sample: [/etc/sysctl.d/60-mshare-huge-pages.conf]
    kernel_command_line:
      description: What is to be added to the kernel command line, for pages of 1 GiB. Empty if nothing is.
      type: str
      sample: hugepagesz=1G hugepages=16
    reasons:
      description: Why it does not take effect at boot by itself.
      type: list
      elements: str
      sample: []
oracle:
  description: Of each Oracle instance, what is to be set and whether it has taken effect.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name in a survey.
      type: str
      sample: oracle ORCL
    sid:
      description: Its SID.
      type: str
      sample: ORCL
    user:
      description: The user it runs as.
      type: str
      sample: oracle
    settings:
      description: The settings that matter, as far as its parameter file shows them.
      type: dict
      sample: {"sga_target": "16G", "memory_target": "0"}
    pages:
      description: How many huge pages its SGA needs.
      type: int
      sample: 8193
    sql:
      description: The statements for its administrator, to be reviewed. Empty if nothing is left to set.
      type: list
      elements: str
      sample: ["ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;"]
    limits:
      description: The lines for C(/etc/security/limits.d).
      type: list
      elements: str
      sample: ["oracle soft memlock unlimited", "oracle hard memlock unlimited"]
    done:
      description: Whether its SGA is in huge pages, measured. A few small pages beside it, less than one huge page, do not count.
      type: bool
      sample: false
    left_alone:
      description: Whether it is an instance of Grid Infrastructure, like +ASM, for which nothing is to be set.
      type: bool
      sample: false
    reason:
      description: What says so.
      type: str
      sample: 0 B of its 16 GiB of shared memory are in huge pages (measured)
summary:
  description: The result as sentences.
  returned: success, and if the kernel granted less than was asked for
  type: list
  elements: str
  sample: ["The pool of 2 MiB pages has 520 pages (1 GiB), 0 of them in use or reserved; as wanted."]
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: conflict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module, _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.huge_pages.converge import absent, present
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.huge_pages.result import Result
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.huge_pages.spec import HugePagesSpec, make

POOL_OPTIONS = {
    "size": {"type": "str", "default": "2MiB"},
    "node": {"type": "int"},
    "wanted": {"type": "str", "default": "auto"},
}
MEMLOCK_OPTIONS = {
    "unit": {"type": "str"},
    "user": {"type": "str"},
    "limit": {"type": "str", "default": "unlimited"},
}


def spec(params: dict[str, Any]) -> HugePagesSpec:
    return make(
        params["pages"] or (),
        spare=params["spare"],
        share_of_ram_max=params["share_of_ram_max"],
        instances=params["instances"] or (),
        live=params["live"],
        persist=params["persist"],
        keep_partial=params["keep_partial"],
        shm_group=params["shm_group"],
        memlock=params["memlock"] or (),
        transparent=params["transparent"],
    )


def converge(module: AnsibleModule) -> Result:
    if module.params["state"] == "absent":
        return absent(check=module.check_mode)
    return present(spec(module.params), check=module.check_mode)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "pages": {"type": "list", "elements": "dict", "options": POOL_OPTIONS},
            "instances": {"type": "list", "elements": "str"},
            "spare": {"type": "str", "default": "8"},
            "share_of_ram_max": {"type": "float", "default": 0.7},
            "live": {"type": "bool", "default": True},
            "persist": {"type": "bool", "default": True},
            "keep_partial": {"type": "bool", "default": False},
            "shm_group": {"type": "str"},
            "memlock": {
                "type": "list",
                "elements": "dict",
                "options": MEMLOCK_OPTIONS,
                "mutually_exclusive": [("unit", "user")],
                "required_one_of": [("unit", "user")],
            },
            "transparent": {"type": "str", "choices": ["always", "madvise", "never"]},
        },
        supports_check_mode=True,
    )
    result: Result = _module.attempt(module, lambda: converge(module))
    answer = _results.converged(result.to_dict(), "huge pages")
    if result.failure is not None:
        answer |= {"failed": True, "msg": result.failure, "error_kind": "failed"}
    _module.end(module, answer)


if __name__ == "__main__":
    main()
