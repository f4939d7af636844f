#!/usr/bin/python
# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mshare_collapse
short_description: Put a running server's shared memory into huge pages
version_added: 0.1.0
description:
  - Puts the shared memory of a running server into huge pages of 2 MiB. Nothing is restarted.
  - Needs root, Linux 6.1, and a segment that begins at a multiple of 2 MiB. What stands in the way is reported before anything
    is changed, with the way out.
  - Only memory that is in use is put into huge pages. An interrupted run is resumed by the next one.
  - Needs only Python on the host.
extends_documentation_fragment:
  - dbmem.mshare.attributes
attributes:
  async:
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - A server that has touched more of its memory since the last run has more to collapse.
options:
  target:
    description:
      - Whose memory. A pid, the data directory of a PostgreSQL server, or a systemd unit like V(postgresql@15-main.service).
    type: str
    required: true
  rate:
    description:
      - How much to collapse per second at most, like V(200MiB). The default is no limit.
    type: str
  minimum_percent:
    description:
      - Fail when less than this share of the memory in use is in huge pages in the end. What was collapsed stays so.
    type: int
    default: 90
seealso:
  - module: dbmem.mshare.mshare_postgresql
  - module: dbmem.mshare.mshare_plan
author:
  - dbmem.mshare contributors (@dbmem)
"""

EXAMPLES = r"""
- name: Put a PostgreSQL server into huge pages while it works
  dbmem.mshare.mshare_collapse:
    target: /var/lib/postgresql/15/main
    rate: 200MiB
"""

RETURN = r"""
pid:
  description: The process that was looked at.
  returned: success
  type: int
  sample: 812
command:
  description: Its name.
  returned: success
  type: str
  sample: postgres
segments:
  description: How many of its shared segments can be in huge pages.
  returned: success
  type: int
  sample: 1
before:
  description: >-
    Measured before. C(used_bytes) of the segments in use, C(huge_bytes) of that in huge pages, C(page_tables_bytes) of the
    C(processes) that have them mapped.
  returned: success
  type: dict
  sample: {"used_bytes": 2147483648, "huge_bytes": 0, "page_tables_bytes": 24012390, "processes": 24}
after:
  description: The same, measured after; in check mode as before.
  returned: success
  type: dict
  sample: {"used_bytes": 2147483648, "huge_bytes": 2147483648, "page_tables_bytes": 3565158, "processes": 24}
collapsed_bytes:
  description: How much was put into huge pages, or would be in check mode.
  returned: success
  type: int
  sample: 2147483648
left:
  description: What stays in small pages, with C(reason) and C(size_bytes).
  returned: success
  type: list
  elements: dict
  sample: []
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 13.8
summary:
  description: The same for people, one sentence each.
  returned: success
  type: list
  elements: str
  sample: ["2 GiB of process 812 (postgres) are in huge pages now: 100.0 % of the 2 GiB in use."]
error_kind:
  description: The kind of the error, for conditions.
  returned: failure
  type: str
  sample: unavailable
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbmem.mshare.plugins.module_utils import _module
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.collapse.collapse import (
    Figures,
    Result,
    collapse,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import format_size, parse_size


def diff(result: Result) -> dict[str, Any]:
    """The memory's pages before and after; in check mode what there would be."""
    planned = result.collapsed_bytes if result.check else 0
    header = f"process {result.pid} ({result.command})"
    return {
        "before_header": header,
        "after_header": header,
        "before": text(result.before),
        "after": text(result.after, planned),
    }


def text(figures: Figures, planned_bytes: int = 0) -> str:
    huge_bytes = figures.huge_bytes + planned_bytes
    return (
        f"in huge pages: {format_size(huge_bytes)}\n"
        f"in small pages: {format_size(figures.used_bytes - huge_bytes)}\n"
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "target": {"type": "str", "required": True},
            "rate": {"type": "str"},
            "minimum_percent": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    rate = module.params["rate"]
    result: Result = _module.attempt(
        module,
        lambda: collapse(
            module.params["target"],
            rate_bytes=None if rate is None else parse_size(rate, "rate"),
            check=module.check_mode,
        ),
    )
    results = {**result.to_dict(), "summary": result.lines(), "diff": diff(result)}
    minimum = module.params["minimum_percent"]
    if not module.check_mode and 100 * result.after.huge_bytes < minimum * result.after.used_bytes:
        module.fail_json(
            msg=f"{' '.join(result.lines())} At least {minimum} % should be; free memory, or run this again"
            " when the server is less busy",
            error_kind="error",
            **results,
        )
    module.exit_json(**results)


if __name__ == "__main__":
    main()
