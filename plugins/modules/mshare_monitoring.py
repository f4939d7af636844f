#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_monitoring
short_description: Survey a host for Prometheus again and again
version_added: 0.1.0
description:
  - Sets up surveys whose metrics the Prometheus node exporter reads with its textfile collector. A systemd timer starts each of
    them; below 60 seconds it is a service that stays. Where systemd does not run, it is a cron entry.
  - Surveys run as user C(mshare-monitoring), with the capabilities C(CAP_SYS_PTRACE) and C(CAP_DAC_READ_SEARCH) and no other rights,
    bounded in time and memory.
  - The user writes to C(/var/lib/mshare-monitoring) only. In the node exporter's directory is a link to the file there.
  - Afterwards there are first metrics, or the module fails and what it had done is undone.
  - Needs root, and the library that M(dbmem.mshare.mshare_runtime) installs.
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
options:
  state:
    description:
      - V(present) sets the surveys up, V(absent) removes everything that was made for them, the user included.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description:
      - The directory from which the node exporter reads text files.
      - By default it is taken from the command line of the node exporter that runs on the host. If none runs, or it reads no text
        files, the module fails.
    type: path
  interval:
    description:
      - The number of seconds from one survey to the next, 5 to 3600. With cron it has to be whole minutes that divide an hour.
    type: int
    default: 60
  executable:
    description:
      - The command line of the library on the host.
    type: path
    default: /usr/local/bin/mshare
seealso:
  - module: dbmem.mshare.mshare_survey
  - module: dbmem.mshare.mshare_runtime
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Survey the host every minute for the node exporter that runs on it
  dbmem.mshare.mshare_monitoring:

- name: Survey it every 15 seconds, for a node exporter that starts later
  dbmem.mshare.mshare_monitoring:
    directory: /var/lib/prometheus/node-exporter
    interval: 15

- name: No longer
  dbmem.mshare.mshare_monitoring:
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done; one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["make user mshare-monitoring", "start mshare-monitoring.timer, now and at boot"]
monitoring:
  description: What surveys the host; empty with O(state=absent).
  returned: success
  type: dict
  contains:
    directory:
      description: The directory from which the node exporter reads text files.
      type: str
      sample: /var/lib/prometheus/node-exporter
    file:
      description: The file that surveys replace. C(mshare.prom) in the directory is a link to it.
      type: str
      sample: /var/lib/mshare-monitoring/mshare.prom
    user:
      description: The user that surveys.
      type: str
      sample: mshare-monitoring
    interval_seconds:
      description: The number of seconds from one survey to the next.
      type: int
      sample: 60
    kept_by:
      description: What repeats the surveys, V(systemd timer), V(systemd service) or V(cron).
      type: str
      sample: systemd timer
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
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.monitoring.converge import absent, present
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.monitoring.spec import MonitoringSpec


def converge(module: AnsibleModule) -> Outcome[Any]:
    params = module.params
    if params["state"] == "absent":
        return absent(check=module.check_mode)
    spec = MonitoringSpec(params["directory"], params["interval"], params["executable"])
    # Where there is nothing to do, nothing needs the command line.
    return present(spec, check=module.check_mode, require_program=lambda: _module.program(module))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "path"},
            "interval": {"type": "int", "default": 60},
            "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
        },
        supports_check_mode=True,
    )
    outcome: Outcome[Any] = _module.attempt(module, lambda: converge(module))
    _converge.report(module, outcome, "monitoring", monitoring=outcome.answer())


if __name__ == "__main__":
    main()
