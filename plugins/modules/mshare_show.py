#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Implemented as an action plugin of the same name, which runs on the controller.

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_show
short_description: Show lines of text as they are
version_added: 0.1.0
description:
  - Writes lines, such as the C(summary) of another module, to the terminal of C(ansible-playbook). With Ansible's default
    callback C(ansible.builtin.debug) shows a table as a list of quoted texts; this module shows it as a table, without any
    setting.
  - In a play of several hosts the name of the host comes first.
  - With another callback than Ansible's default, the lines are shown as that callback shows results.
  - Runs on the controller and asks the host nothing.
attributes:
  async:
    support: none
extends_documentation_fragment:
  - dbmem.mshare.attributes
  - dbmem.mshare.attributes.info
options:
  lines:
    description:
      - The lines, each without its end.
    type: list
    elements: str
    required: true
seealso:
  - module: dbmem.mshare.mshare_plan
  - module: dbmem.mshare.mshare_report
  - module: dbmem.mshare.mshare_savings
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Plan for the databases of this host
  dbmem.mshare.mshare_plan:
  register: plan

- name: Show the plan
  dbmem.mshare.mshare_show:
    lines: "{{ plan.summary }}"
"""

RETURN = r"""
lines:
  description: The lines that were shown.
  returned: success
  type: list
  elements: str
  sample: ["1 host surveyed"]
"""
