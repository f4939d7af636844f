#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_savings
short_description: Validate what sharing page tables saves
version_added: 0.1.0
description:
  - Measures what page tables cost without sharing on this host, with a few processes that map plain shared memory. Compares
    that with the arithmetic, and with the page tables of a region's clients.
  - Every figure is labelled measured, modelled or projected. The cost with sharing is measured on a kernel with mshare, and
    modelled on the simulated backend, where clients have their own page tables.
  - Fails if a threshold is missed, and also returns the figures then.
  - Needs only Python on the host, and changes nothing.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
  - dbmem.mshare.msharefs
options:
  region:
    description:
      - The region whose clients are measured. They must be running. Either this or O(regions) is required.
    type: str
  regions:
    description:
      - Several regions, in one call. Each is measured on its own; all must pass.
    type: list
    elements: str
  span:
    description:
      - How much plain shared memory each probe touches. The default is what the clients touch.
    type: str
  probes:
    description:
      - How many processes measure the baseline.
    type: int
    default: 2
  min_saving_percent:
    description:
      - The required saving, in percent of all page tables. The default is 90 % of what n clients can achieve, (n - 1)/n.
    type: float
  max_model_error_percent:
    description:
      - How far measured page tables may differ from the arithmetic, in percent.
    type: float
    default: 5
  min_clients_attached:
    description:
      - How many clients must be attached. The default is all that were requested.
    type: int
  max_client_errors:
    description:
      - How many errors the clients may report.
    type: int
    default: 0
  project_size:
    description:
      - The size of the database that the figures are projected to.
    type: str
    default: 300GiB
  project_clients:
    description:
      - The number of clients that the figures are projected to.
    type: int
    default: 1500
seealso:
  - module: dbmem.mshare.mshare_clients
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Validate the deployment
  dbmem.mshare.mshare_savings:
    region: sga
    min_saving_percent: 90
  register: savings

- name: Validate every region of a host
  dbmem.mshare.mshare_savings:
    regions: [sales, ledger]

- name: Show the table
  dbmem.mshare.mshare_show:
    lines: "{{ savings.summary }}"
"""

RETURN = r"""
passed:
  description: Whether all thresholds were met.
  returned: when clients run
  type: bool
  sample: true
reasons:
  description: Which thresholds were missed, one sentence each.
  returned: when clients run
  type: list
  elements: str
  sample: []
regions:
  description: The result for each region, in the order of O(regions), with the same keys as for a single O(region).
  returned: when clients run, with O(regions)
  type: list
  elements: dict
  sample: [{"region": "sga", "passed": true, "reasons": []}]
figures:
  description:
    - The figures by name, each with C(value), C(unit), C(kind) (V(measured), V(modelled) or V(projected)) and C(how).
  returned: when clients run, with O(region)
  type: dict
  sample: {"without_sharing_per_client": {"value": 630374400, "unit": "bytes", "kind": "measured", "how": "the mean of 2 probes"}}
summary:
  description: The figures as a table for people, line by line.
  returned: when clients run
  type: list
  elements: str
  sample: ["Page tables without sharing    601.2 MiB    58.7 GiB   measured"]
baseline:
  description: What each probe measured, and what the model says for the same addresses.
  returned: when clients run, with O(region)
  type: dict
  sample: {"span_bytes": 322122547200}
clients:
  description: The clients as their launcher reports them, as in RV(dbmem.mshare.mshare_clients#module:clients).
  returned: when clients run, with O(region)
  type: dict
  sample: {"region": "sga", "backend": "simulated", "requested": 100, "attached": 100}
thresholds:
  description: The thresholds; V(null) stands for a default that depends on the clients.
  returned: when clients run, with O(region)
  type: dict
  sample: {"min_saving_percent": null, "max_model_error_percent": 5.0, "min_clients_attached": null, "max_client_errors": 0}
projection:
  description: The database that the figures are projected to.
  returned: when clients run, with O(region)
  type: dict
  sample: {"size_bytes": 322122547200, "clients": 1500}
notes:
  description: Remarks about the figures, one sentence each.
  returned: when clients run, with O(region)
  type: list
  elements: str
  sample: ["kernel 6.12.0 has no msharefs in /proc/filesystems, so the simulated backend is used"]
schema_version:
  description: The version of the result's format.
  returned: when clients run
  type: int
  sample: 1
error_kind:
  description: The kind of the error, for conditions; V(verdict_failed) if a threshold was missed.
  returned: failure
  type: str
  sample: verdict_failed
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils._verdict import verdict
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.assess import Projection, Savings
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.validate import (
    result,
    results,
    validate,
    validate_each,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.savings.verdict import Thresholds
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import parse_size

THRESHOLDS = (
    "min_saving_percent",
    "max_model_error_percent",
    "min_clients_attached",
    "max_client_errors",
)


def assess(params: dict[str, Any]) -> dict[str, Savings]:
    """What sharing saves, by region."""
    validate_one = partial(
        validate,
        backend=params["backend"],
        root=params["root"],
        span_bytes=parse_size(params["span"], "span") if params["span"] else None,
        probes=params["probes"],
        projection=Projection(parse_size(params["project_size"], "project_size"), params["project_clients"]),
        thresholds=Thresholds(**{name: params[name] for name in THRESHOLDS}),
    )
    return validate_each(params["regions"] or [params["region"]], validate_one)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_module.MSHAREFS_OPTIONS,
            "region": {"type": "str"},
            "regions": {"type": "list", "elements": "str"},
            "span": {"type": "str"},
            "probes": {"type": "int", "default": 2},
            "min_saving_percent": {"type": "float"},
            "max_model_error_percent": {"type": "float", "default": 5},
            "min_clients_attached": {"type": "int"},
            "max_client_errors": {"type": "int", "default": 0},
            "project_size": {"type": "str", "default": "300GiB"},
            "project_clients": {"type": "int", "default": 1500},
        },
        mutually_exclusive=[("region", "regions")],
        required_one_of=[("region", "regions")],
        supports_check_mode=True,
    )
    savings = _module.attempt(module, lambda: assess(module.params))
    answer = result(*savings.values()) if module.params["regions"] is None else results(savings)
    _module.end(module, verdict(savings, answer))


if __name__ == "__main__":
    main()
