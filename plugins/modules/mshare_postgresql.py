#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_postgresql
short_description: Run an unmodified PostgreSQL on a region or on huge pages
version_added: 0.1.0
description:
  - Starts a PostgreSQL cluster with the preloaded library of this collection, which puts its shared memory into a region, or into
    huge pages of a stock kernel. With O(pages=native) PostgreSQL itself asks for huge pages, without the library.
  - Works for clusters of Debian's C(pg_ctlcluster), for those that a plain systemd unit starts, such as PGDG's on EL, and for members
    of a Patroni cluster that systemd starts. Refuses, before anything is changed, clusters that something else manages (other cluster
    managers, containers, operators), and says what to set there.
  - For a member of a Patroni cluster the environment is a drop-in on Patroni's unit, and Patroni's settings stay as they are. With
    O(restart=true) Patroni is restarted, and its PostgreSQL with it, while all other members are up; a leader hands over first.
    With O(pages=native) and O(restart=true), C(postgresql.parameters.huge_pages) is set in Patroni's store, where it counts for all
    members, and Patroni restarts PostgreSQL. O(state=absent) puts back what was there before, unless somebody has changed it since.
  - Writes the environment, one file that turns PostgreSQL's own O(ignore:huge_pages) off and, for a region under systemd, a drop-in
    that starts the server after the region. With O(pages=native) it writes only the file that turns O(ignore:huge_pages) on.
    O(state=absent) restores all of it byte for byte.
  - Restarts the server only if O(restart) allows it. Afterwards it checks where the segment really is, in the postmaster and in
    a backend, and what page tables cost before and after. If the segment is not where it should be, the module restores files
    and server, and fails.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
  - dbmem.mshare.msharefs
options:
  state:
    description:
      - V(present) starts the cluster with the library, V(absent) restores the cluster.
    type: str
    choices: [present, absent]
    default: present
  version:
    description:
      - The cluster's version, like V(15). Can be omitted if only one cluster matches.
    type: str
  cluster:
    description:
      - The cluster's name, like V(main); for a cluster of a plain systemd unit the unit's, like V(postgresql-16), and for
        Patroni's its scope, unless its configuration is in C(/etc/postgresql). Can be omitted if only one cluster matches.
    type: str
  pages:
    description:
      - V(thp) are transparent huge pages on any kernel since Linux 6.1, without a pool to reserve.
      - V(hugetlb) are pages of the host's huge page pool, placed so that a stock kernel shares page tables as far as it can.
      - V(native) are pages of the pool as well, for which PostgreSQL itself asks (O(ignore:huge_pages) V(on), and O(ignore:huge_page_size)
        since PostgreSQL 14). Refused before PostgreSQL 9.4, with O(ignore:shared_memory_type) V(sysv), and where the pool has too
        few free pages.
      - V(4k) is a region, on a kernel with mshare. The simulated backend saves nothing, so it must be requested explicitly with
        O(backend=simulated).
    type: str
    choices: [thp, hugetlb, 4k, native]
    default: thp
  page_size:
    description:
      - The size of V(native) pages, like V(2MiB) or V(1GiB). By default it is what the cluster's own O(ignore:huge_page_size) says,
        otherwise 2 MiB. PostgreSQL before 14 always has the kernel's default size.
    type: str
  members_ready:
    description:
      - For O(pages=native) on a member of a Patroni cluster, whether the hosts of all members have enough huge pages. What is in Patroni's
        store counts for all of them, and a member without enough huge pages would not start again. With V(false), a cluster that has other
        members is refused.
      - The role asks the hosts of its play, and sets this if these are all members.
    type: bool
    default: false
  planned_pages:
    description:
      - In check mode, how many huge pages the pool will have been given before the real run.
    type: int
    default: 0
  region:
    description:
      - The region to use, with O(pages=4k). By default the server creates its own, which lives and dies with it.
    type: str
  threshold:
    description:
      - Shared memory smaller than this stays as it is.
    type: str
    default: 16MiB
  prefault:
    description:
      - Whether the whole segment is touched when the server starts, which takes some seconds per GiB. By default it is, except for
        O(pages=hugetlb), and for O(pages=thp) with shared buffers of 1 GiB or more.
      - With V(false) and O(pages=thp) the server starts at once, in small pages if the kernel has transparent huge pages for shared
        memory turned off, at an address where M(dbmem.mshare.mshare_collapse) can put it into huge pages while it runs.
    type: bool
  require:
    description:
      - Whether the server refuses to start if the library cannot place its memory. With V(false), it starts on ordinary memory
        and its log says why.
    type: bool
    default: false
  restart:
    description:
      - Whether the server may be restarted, which ends its connections. With V(false), RV(restart_required) is only reported.
    type: bool
    default: false
  probes:
    description:
      - How many connections measure page tables before and after a restart. With V(0), nothing is measured and no connection is
        needed.
    type: int
    default: 10
  library:
    description:
      - The path of the preloaded library on the host, which M(dbmem.mshare.mshare_runtime) installs.
    type: path
    default: /usr/local/lib/mshare/libmshare-preload.so
seealso:
  - module: dbmem.mshare.mshare_collapse
  - module: dbmem.mshare.mshare_huge_pages
  - module: dbmem.mshare.mshare_runtime
  - module: dbmem.mshare.mshare_savings
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Use huge pages for PostgreSQL after its next restart
  dbmem.mshare.mshare_postgresql:
    pages: thp

- name: Use a region now
  dbmem.mshare.mshare_postgresql:
    version: '15'
    cluster: main
    pages: 4k
    restart: true

- name: Let PostgreSQL itself use the pool of huge pages
  dbmem.mshare.mshare_postgresql:
    pages: native
    restart: true

- name: The same for a member of a Patroni cluster, all of whose hosts have a pool
  dbmem.mshare.mshare_postgresql:
    cluster: 15-main
    pages: native
    members_ready: true
    restart: true

- name: Restore the cluster
  dbmem.mshare.mshare_postgresql:
    state: absent
    restart: true
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["restart PostgreSQL cluster 15-main, because the server was started with another environment"]
cluster:
  description: The cluster and its server. C(patroni) is empty unless it is a member of a Patroni cluster.
  returned: success
  type: dict
  sample:
    {"version": "15", "name": "main", "data_directory": "/var/lib/postgresql/15/main", "running": true, "pid": 4711, "port": "5432",
    "patroni": {"scope": "15-main", "member": "db1", "leads": false, "members": ["db1", "db2"],
    "api_url": "http://10.0.0.1:8008/patroni", "api_urls": ["http://10.0.0.1:8008/patroni", "http://10.0.0.2:8008/patroni"]}}
restart_required:
  description: Whether the server has to be restarted to take effect.
  returned: success
  type: bool
  sample: false
restart_reason:
  description: Why it has to be restarted.
  returned: success
  type: str
  sample: the server was started with another environment
restarted:
  description: Whether it was restarted.
  returned: success
  type: bool
  sample: true
lost:
  description: What is no longer as it was when it was last verified, for instance after a restart by somebody else. Empty if nothing is.
  returned: success
  type: str
  sample: "PostgreSQL cluster 15-main was verified with pages thp in postmaster 4711; since then it was restarted, as postmaster 4800, and
    that is lost: the server was started with another environment"
segment:
  description: Where the server's shared memory is, from the maps of the postmaster. Empty if the server does not run.
  returned: success
  type: dict
  contains:
    kind:
      description: V(anonymous), V(sysv), V(tmpfs), V(hugetlb) or V(msharefs).
      type: str
      sample: anonymous
    name:
      description: The file or object.
      type: str
      sample: inode 1035
    region:
      description: The name of the region, if it is one.
      type: str
      sample: postgres.4711
    size_bytes:
      description: Its memory, in bytes. If RV(segment.size_known) is V(false), the window of a region.
      type: int
      sample: 155189248
    window_bytes:
      description: The address space of a region, which is larger than its memory.
      type: int
      sample: 1073741824
    size_known:
      description: Whether the memory of a region is known on this host.
      type: bool
      sample: true
    address:
      description: Its start address.
      type: int
      sample: 140007178469376
    congruent_2mib:
      description: Whether huge pages of 2 MiB can be mapped there.
      type: bool
      sample: true
    aligned_1gib:
      description: Whether it starts at a multiple of 1 GiB.
      type: bool
      sample: false
    huge_bytes:
      description: How much of it the process maps with huge pages.
      type: int
      sample: 155189248
huge_pages:
  description: PostgreSQL's own setting.
  returned: success
  type: dict
  contains:
    setting:
      description: The value of C(huge_pages) in the cluster's files.
      type: str
      sample: "on"
    source:
      description: The file that sets it, or what else does.
      type: str
      sample: zz-dbmem-mshare.conf
    fell_back:
      description: Whether the setting is V(try) and the server is in small pages all the same, which its log does not say.
      type: bool
      sample: false
    status:
      description: The value of C(huge_pages_status), which PostgreSQL 17 and later have, after a restart with O(probes).
      type: str
      sample: "on"
align_only:
  description:
    - Whether the server starts in small pages, at an address where huge pages can be collapsed afterwards (O(pages=thp) without
      O(prefault)).
  returned: success
  type: bool
  sample: false
backend_segment:
  description: The same in a backend, after a restart.
  returned: success
  type: dict
  sample: {}
page_tables:
  description: Page tables of connections C(before) and C(after) a restart, measured for the same number of connections, which
    touched the same part of the segment. Empty without a restart.
  returned: success
  type: dict
  sample: {"before": {"connections": 10, "average_bytes": 974848, "kind": "measured"}, "after": {"average_bytes": 135168}}
summary:
  description: The result as sentences.
  returned: success
  type: list
  elements: str
  sample: ["PostgreSQL cluster 15-main, postmaster 4711: segment inode 1035 (anonymous, 148 MiB at 0x7f55bfe00000)"]
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import InvalidRequest
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.converge import (
    postgresql_absent,
    postgresql_present,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.postgresql.spec import NATIVE, ClusterSpec
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import parse_size


def converge(module: AnsibleModule) -> Outcome[Any]:
    params = module.params
    how = {
        "version": params["version"],
        "name": params["cluster"],
        "restart": params["restart"],
        "probes": params["probes"],
        "check": module.check_mode,
    }
    if params["state"] == "absent":
        return postgresql_absent(**how)
    page_size = params["page_size"]
    if page_size is not None and params["pages"] != NATIVE:
        raise InvalidRequest(f"page_size {page_size} only takes effect with pages native; leave it out")
    spec = ClusterSpec(
        params["pages"],
        library=params["library"],
        backend=params["backend"],
        root=params["root"],
        region=params["region"],
        threshold_bytes=parse_size(params["threshold"], "threshold"),
        prefault=params["prefault"],
        require=params["require"],
        page_bytes=None if page_size is None else parse_size(page_size, "page_size"),
    )
    planned_pages = params["planned_pages"] if module.check_mode else 0
    return postgresql_present(spec, planned_pages=planned_pages, members_ready=params["members_ready"], **how)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "version": {"type": "str"},
            "cluster": {"type": "str"},
            "pages": {"type": "str", "choices": ["thp", "hugetlb", "4k", "native"], "default": "thp"},
            "page_size": {"type": "str"},
            "members_ready": {"type": "bool", "default": False},
            "planned_pages": {"type": "int", "default": 0},
            "region": {"type": "str"},
            "threshold": {"type": "str", "default": "16MiB"},
            "prefault": {"type": "bool"},
            "require": {"type": "bool", "default": False},
            "restart": {"type": "bool", "default": False},
            "probes": {"type": "int", "default": 10},
            "library": {"type": "path", "default": "/usr/local/lib/mshare/libmshare-preload.so"},
        },
        supports_check_mode=True,
    )
    outcome = _module.attempt(module, lambda: converge(module))
    _converge.report(module, outcome, "PostgreSQL", **outcome.answer())


if __name__ == "__main__":
    main()
