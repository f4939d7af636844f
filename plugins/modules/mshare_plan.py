#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_plan
short_description: Plan what each remedy against page tables would save
version_added: 0.1.0
description:
  - Shows for each database what its page tables cost today and at its maximum number of clients, and what they would cost with
    each remedy, such as connection pooling, huge pages or mshare. Lists which remedies are not possible, and why.
  - Uses a stored survey, or a size and a number of clients; without either, it surveys the host.
  - Every figure is labelled measured, modelled or projected.
  - Needs only Python on the host, and changes nothing. With O(survey) or O(size) it can also run on the controller.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
options:
  survey:
    description:
      - A result of M(dbmem.mshare.mshare_survey) or C(mshare survey --json).
    type: dict
  size:
    description:
      - Without a survey, the size of the planned segment, like V(300GiB). Needs O(clients).
    type: str
  clients:
    description:
      - How many processes attach. With a survey, it replaces the configured maximum.
    type: int
  memory:
    description:
      - With O(size), the RAM of the planned host. Without it there are no percentages.
    type: str
  instance:
    description:
      - Plan only for this instance of the survey.
    type: str
  pool_to:
    description:
      - How many connections a pooler would keep. The default is a tenth of the clients.
    type: int
  details:
    description:
      - Whether C(summary) also says why a remedy is not open, what each needs, and its address space, memory and faults.
    type: bool
    default: false
  generations:
    description:
      - Whether the generations of mshare are listed one by one. By default they are one row.
    type: bool
    default: false
seealso:
  - module: dbmem.mshare.mshare_survey
  - module: dbmem.mshare.mshare_savings
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Plan for a database that does not exist yet
  dbmem.mshare.mshare_plan:
    size: 300GiB
    clients: 1500
    memory: 512GiB
  delegate_to: localhost
  register: plan

- name: Show it
  dbmem.mshare.mshare_show:
    lines: "{{ plan.summary }}"

- name: Plan for the databases of this host
  dbmem.mshare.mshare_plan:
    pool_to: 100
"""

RETURN = r"""
source:
  description: What the plan is based on, V(survey) or V(wishes) (O(size) and O(clients)).
  returned: success
  type: str
  sample: survey
created_at:
  description: When the plan was made, UTC, ISO 8601.
  returned: success
  type: str
  sample: "2026-11-27T08:00:00+00:00"
surveyed_at:
  description: When the survey was made that the plan is based on; V(null) without a survey.
  returned: success
  type: str
  sample: "2026-11-27T08:00:00+00:00"
outlook:
  description:
    - The verdict on the host with every instance at its maximum (V(fine), V(at_risk), V(will_run_out)), with the one remedy to
      take, its command, what it saves, costs and needs. Each instance has its own.
  returned: success
  type: dict
  sample: {"verdict": "at_risk", "remedy_id": "hugetlb_2m", "saving_bytes": 792723456}
complete:
  description: Whether the survey could read every process.
  returned: success
  type: bool
  sample: true
host:
  description: The host that was surveyed; V(null) for what is not known.
  returned: success
  type: dict
  sample: {"name": "db1", "kernel": "6.12.0", "memory_total_bytes": 549755813888}
notes:
  description: Remarks about the figures, one sentence each.
  returned: success
  type: list
  elements: str
  sample: []
instances:
  description:
    - The instances, each with C(rows), one per remedy (page tables in bytes before and after, window, memory and waste in bytes,
      first-touch faults, restart, reboot, confidence, reasons against the remedy, formula with inputs), and with a C(verdict).
  returned: success
  type: list
  elements: dict
  sample: [{"name": "postgresql 15/main", "clients_maximum": 200, "rows": [{"id": "hugetlb_2m", "usable": true, "saving_bytes": 792723456}]}]
paste:
  description: Lines to paste, grouped by C(sysctl), C(database) and C(inventory).
  returned: success
  type: dict
  sample: {"sysctl": ["vm.nr_hugepages = 153600"], "database": ["huge_pages = on"], "inventory": ["mshare_region_size: 300GiB"]}
summary:
  description: The plan as text for people, line by line.
  returned: success
  type: list
  elements: str
  sample: ["sga: 300 GiB shared by 1,500 clients (asked for)"]
schema_version:
  description: The version of the result's format.
  returned: success
  type: int
  sample: 1
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: invalid_request
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan import facts, text
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.plan import Plan, plan
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.record import from_fields
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.survey import survey
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import parse_size


def known(params: dict[str, Any]) -> facts.Facts:
    if params["size"] is not None:
        memory_bytes = parse_size(params["memory"], "memory") if params["memory"] else None
        return facts.from_arguments(
            parse_size(params["size"]), params["clients"], params["instance"], memory_bytes
        )
    surveyed = survey() if params["survey"] is None else from_fields(params["survey"])
    return facts.from_survey(surveyed, params["instance"], params["clients"])


def made_of(params: dict[str, Any]) -> Plan:
    return plan(known(params), params["pool_to"], params["generations"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "survey": {"type": "dict"},
            "size": {"type": "str"},
            "clients": {"type": "int"},
            "memory": {"type": "str"},
            "instance": {"type": "str"},
            "pool_to": {"type": "int"},
            "details": {"type": "bool", "default": False},
            "generations": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("survey", "size"), ("survey", "memory")],
        required_by={"size": "clients", "memory": "size"},
        supports_check_mode=True,
    )
    made = _module.attempt(module, lambda: made_of(module.params))
    module.exit_json(
        changed=False, **made.to_dict(), summary=text.lines(made, details=module.params["details"])
    )


if __name__ == "__main__":
    main()
