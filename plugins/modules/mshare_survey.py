#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_survey
short_description: Survey what page tables cost on a host, by database
version_added: 0.1.0
description:
  - Shows how much memory the page tables of each database, or other group of processes, take now; for which shared segments;
    and, if it can be read, for how many processes the database is configured.
  - Needs only Python on the host, not mshare, and changes nothing.
  - Reads C(VmPTE) of every process, the mappings only of processes above O(threshold), and page tables by range only of a few
    processes per group. Never reads C(smaps), which would block the database.
  - An ordinary user gets a partial result, with C(complete=false) and a list of what could not be read.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
options:
  exact:
    description:
      - Scan every process of a group instead of a few samples.
    type: bool
    default: false
  threshold:
    description:
      - Mappings are only read for processes with at least this much in page tables, like V(1MiB).
    type: str
seealso:
  - module: dbmem.mshare.mshare_plan
  - module: dbmem.mshare.mshare_report
  - module: dbmem.mshare.mshare_info
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Survey a host
  dbmem.mshare.mshare_survey:
  register: survey
  become: true

- name: Show each database with its page tables
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.page_tables.sum_bytes }} bytes in {{ item.processes }} processes"
  loop: "{{ survey.survey.instances }}"
  loop_control:
    label: "{{ item.name }}"
"""

RETURN = r"""
survey:
  description: The survey, the same as from C(mshare survey --json). Sizes are in bytes, in keys that end in C(_bytes).
  returned: success
  type: dict
  contains:
    schema_version:
      description: The version of the result's format.
      type: int
      sample: 2
    created_at:
      description: When the survey was made, UTC, ISO 8601.
      type: str
      sample: "2026-11-27T08:00:00+00:00"
    host:
      description: The host's memory and page tables, huge page pools, settings, and whether it has mshare.
      type: dict
      sample: {"name": "db1", "kernel": "6.12.0", "page_tables_bytes": 943718400, "memory_total_bytes": 549755813888}
    method:
      description: How it was measured, and how long that took, in milliseconds.
      type: dict
      sample: {"exact": false, "threshold_bytes": 1048576, "samples_per_group": 3, "duration_ms": 34, "uid": 0}
    complete:
      description: Whether everything could be read.
      type: bool
      sample: true
    missing:
      description: What could not be read, with C(pid), C(what) and C(reason).
      type: list
      elements: dict
      sample: []
    vanished:
      description: How many processes ended during the survey.
      type: int
      sample: 0
    instances:
      description:
        - The databases and other groups of processes, each with its shared C(segments), its C(processes) now, their configured
          C(processes_maximum), and its C(page_tables) (C(segments_kind) says whether what the segments cost is measured or modelled).
      type: list
      elements: dict
      sample: [{"name": "postgresql 15/main", "kind": "postgresql", "processes": 207, "page_tables": {"sum_bytes": 893718400}}]
    others:
      description: The processes that belong to no instance, and their page tables.
      type: dict
      sample: {"processes": 80, "page_tables_bytes": 41943040}
    figures:
      description:
        - What alerts need, under the names of the Prometheus metrics. C(figures.instances[].page_tables_bytes) is the metric
          C(mshare_instance_page_tables_bytes).
        - Figures of the C(host), of its C(pools) of huge pages, of its C(instances) and C(regions), and of the C(survey) itself.
          Instances that cannot be told apart after a restart are one entry.
      type: dict
      sample: {"host": {"page_tables_bytes": 943718400, "page_tables_maximum_bytes": 4831838208, "will_run_out": false}}
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: invalid_request
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.monitoring.figures import answer
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.survey import survey
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import parse_size


def ask(params: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"exact": params["exact"]}
    if params["threshold"] is not None:
        options["threshold_bytes"] = parse_size(params["threshold"], "threshold")
    return answer(survey(**options)).to_dict()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "exact": {"type": "bool", "default": False},
            "threshold": {"type": "str"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, survey=_module.attempt(module, lambda: ask(module.params)))


if __name__ == "__main__":
    main()
