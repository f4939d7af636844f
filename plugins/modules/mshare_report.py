#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Implemented as an action plugin of the same name, which runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_report
short_description: Write one report about the surveys of many hosts
version_added: 0.1.0
description:
  - Writes C(report.html), one page to open offline and to print; C(report.json), with the surveys themselves; and
    C(report.csv), into a folder on the controller.
  - The report begins with a verdict, which hosts would run out of memory at their own maximum of processes. It has totals, the
    hosts by the share of RAM that their page tables take, a chart by host and instance, and what huge pages and mshare would save
    across all hosts. Every figure is labelled measured, modelled or projected.
  - A host without a survey is listed as missing, with the reason.
  - Runs on the controller whatever host it is for, so one host has to run it (C(run_once)).
attributes:
  async:
    support: none
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.state
options:
  folder:
    description:
      - The folder on the controller. It is created if it does not exist.
    type: path
    required: true
  results:
    description:
      - The results of M(dbmem.mshare.mshare_survey) by host name, including failures and unreachable hosts.
    type: dict
    default: {}
  stored:
    description:
      - Files on the controller with the output of C(mshare survey --json), named after their hosts; folders of such files; and
        earlier C(report.json) files. For a host that is also in O(results), O(results) is used.
    type: list
    elements: path
    default: []
  compare:
    description:
      - An earlier C(report.json) on the controller. The report then says what grew since, per host and instance.
    type: path
seealso:
  - module: dbmem.mshare.mshare_survey
  - module: dbmem.mshare.mshare_plan
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Survey every host
  dbmem.mshare.mshare_survey:
  register: survey
  ignore_unreachable: true

- name: Write a report about all
  dbmem.mshare.mshare_report:
    folder: "{{ playbook_dir }}/page-tables"
    results: "{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'survey'))) }}"
  run_once: true

- name: Write it again from stored surveys
  dbmem.mshare.mshare_report:
    folder: page-tables
    stored: [page-tables/report.json]
  run_once: true
"""

RETURN = r"""
html:
  description: The page to open.
  returned: success
  type: str
  sample: /srv/page-tables/report.html
files:
  description: The names of the files that were written, or in check mode would be written.
  returned: success
  type: list
  elements: str
  sample: [report.html, report.json, report.csv]
totals:
  description: The figures of all hosts, each with C(value), C(unit) and C(kind), and the number of hosts.
  returned: success
  type: dict
  sample: {"hosts": 12, "hosts_missing": 1, "page_tables": {"value": 943718400000, "unit": "bytes", "kind": "measured"}}
verdict:
  description:
    - Whether the hosts survive their own maxima of processes. C(state) is V(fine), V(at risk) or V(out of memory), the worst of
      all hosts; C(sentence) names the hosts.
  returned: success
  type: dict
  sample: {"state": "fine", "sentence": "All 12 hosts survive their own maxima."}
compared:
  description:
    - What changed since the report that O(compare) names, with C(since), C(grown_bytes), C(hosts) and C(instances) with their
      page tables before and now, and C(gone), the hosts that only the earlier report has; V(null) without O(compare).
  returned: success
  type: dict
  sample: {"earlier": "/srv/page-tables/report.json", "since": "2026-11-01T06:00:00Z", "grown_bytes": 1048576, "hosts": [], "instances": [], "gone": []}
missing:
  description: The hosts without a survey, with C(host) and C(reason).
  returned: success
  type: list
  elements: dict
  sample: [{"host": "db7", "reason": "unreachable: No route to host"}]
summary:
  description: The result as text for people, line by line.
  returned: success
  type: list
  elements: str
  sample: ["All 12 hosts survive their own maxima.", "12 hosts surveyed, 1 missing"]
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: unavailable
"""
