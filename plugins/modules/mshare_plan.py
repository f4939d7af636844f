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
  - Says for each database what its page tables cost today and at its maximum of clients, and what is left of that after each
    remedy, from connection pooling over huge pages to mshare; which remedies are not open to it, and why.
  - Plans from a stored survey, from wishes alone, or, given neither, from a survey of the host that it makes itself.
  - Every figure says whether it is measured, modelled or projected.
  - Needs nothing installed on the host but Python, and changes nothing. With O(survey) or O(size) it may as well run on the
    controller.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
options:
  survey:
    description:
      - What M(dbmem.mshare.mshare_survey) or C(mshare survey --json) answered.
    type: dict
  size:
    description:
      - Without a survey, the size of a segment that is wished for, like V(300GiB). Needs O(clients).
    type: str
  clients:
    description:
      - How many processes attach. With a survey, instead of the maximum that is configured.
    type: int
  memory:
    description:
      - With O(size), the RAM of the host that is wished for. Without it there are no percentages.
    type: str
  instance:
    description:
      - Plan only for this instance of the survey.
    type: str
  pool_to:
    description:
      - How many connections a pooler would keep; a tenth of the clients, if left out.
    type: int
seealso:
  - module: dbmem.mshare.mshare_survey
  - module: dbmem.mshare.mshare_savings
  - module: dbmem.mshare.mshare_region
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Plan for a database that is not there yet
  dbmem.mshare.mshare_plan:
    size: 300GiB
    clients: 1500
    memory: 512GiB
  delegate_to: localhost
  register: plan

- name: Show it
  ansible.builtin.debug:
    msg: "{{ plan.summary }}"

- name: Plan for the databases of this host
  dbmem.mshare.mshare_plan:
    pool_to: 100
"""

RETURN = r"""
source:
  description: What was planned from, V(survey) or V(wishes).
  returned: success
  type: str
  sample: survey
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
  description: What a reader should know about the figures, one sentence each.
  returned: success
  type: list
  elements: str
  sample: []
instances:
  description:
    - The instances, each with C(rows), one per remedy (page tables in bytes before and after, window, memory and waste in bytes,
      first-touch faults, restart, reboot, confidence, reasons against it, formula with inputs), and with a C(verdict).
  returned: success
  type: list
  elements: dict
  sample: [{"name": "postgresql 15/main", "clients_maximum": 200, "rows": [{"id": "hugetlb_2m", "usable": true, "saving_bytes": 792723456}]}]
paste:
  description: Lines to paste, by where they go, C(sysctl), C(database) and C(inventory).
  returned: success
  type: dict
  sample: {"sysctl": ["vm.nr_hugepages = 153600"], "database": ["huge_pages = on"], "inventory": ["mshare_region_size: 300GiB"]}
summary:
  description: The plan as people read it, line by line.
  returned: success
  type: list
  elements: str
  sample: ["sga: 300 GiB shared by 1,500 clients (asked for)"]
schema_version:
  description: The version of this shape of the answer.
  returned: success
  type: int
  sample: 1
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: invalid_request
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan import facts, text
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.plan.plan import plan
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.record import from_fields
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.survey.survey import survey
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import parse_size


def known(params):
    if params["size"] is not None:
        memory_bytes = parse_size(params["memory"], "memory") if params["memory"] else None
        return facts.from_wishes(
            parse_size(params["size"]), params["clients"], params["instance"], memory_bytes
        )
    surveyed = survey() if params["survey"] is None else from_fields(params["survey"])
    return facts.from_survey(surveyed, params["instance"], params["clients"])


def main():
    module = AnsibleModule(
        argument_spec={
            "survey": {"type": "dict"},
            "size": {"type": "str"},
            "clients": {"type": "int"},
            "memory": {"type": "str"},
            "instance": {"type": "str"},
            "pool_to": {"type": "int"},
        },
        mutually_exclusive=[("survey", "size"), ("survey", "memory")],
        required_by={"size": "clients", "memory": "size"},
        supports_check_mode=True,
    )
    made = _module.attempt(module, lambda: plan(known(module.params), module.params["pool_to"]))
    module.exit_json(changed=False, **made.to_dict(), summary=text.lines(made))


if __name__ == "__main__":
    main()
