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
  - With O(follow=true) a service does the same again after each restart of the server, a crash restart included. It is a systemd
    unit where systemd runs, and a process of its own elsewhere.
  - Needs only Python on the host; O(follow=true) needs the library that M(dbmem.mshare.mshare_runtime) installs.
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
  state:
    description:
      - V(present) puts the memory into huge pages. V(absent) stops the service of O(follow=true) and removes what was written for
        it; the server's memory stays in huge pages until its next restart.
    type: str
    choices: [present, absent]
    default: present
  target:
    description:
      - Whose memory. A pid, the data directory of a PostgreSQL server, or a systemd unit like V(postgresql@15-main.service). Not a
        pid with O(follow=true) or O(state=absent), because a restart changes it.
    type: str
    required: true
  follow:
    description:
      - Whether a service collapses again after a restart of the server, and what the server touches later. While that runs and
        O(minimum_percent) is reached, the module changes nothing.
      - With V(false), a service that an earlier run set up is left alone.
    type: bool
    default: false
  interval:
    description:
      - With O(follow=true), how many seconds pass between two looks at the server.
    type: float
    default: 30
  executable:
    description:
      - With O(follow=true), the command line of the library on the host.
    type: path
    default: /usr/local/bin/mshare
  rate:
    description:
      - How much to collapse per second at most, like V(200MiB), or V(unlimited).
      - By default it works at most a quarter of the time. It rests three times as long as each 2 MiB took, and so takes a busy server
        no more than a quarter of one processor. The whole then takes four times as long as with V(unlimited).
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

- name: Keep it there, also after a restart
  dbmem.mshare.mshare_collapse:
    target: /var/lib/postgresql/15/main
    follow: true

- name: No longer
  dbmem.mshare.mshare_collapse:
    target: /var/lib/postgresql/15/main
    state: absent
"""

RETURN = r"""
pid:
  description: The process that was examined.
  returned: success and O(state=present)
  type: int
  sample: 812
command:
  description: Its name.
  returned: success and O(state=present)
  type: str
  sample: postgres
segments:
  description: How many of its shared segments can be in huge pages.
  returned: success and O(state=present)
  type: int
  sample: 1
before:
  description: >-
    Measured before. C(used_bytes) of the segments in use, C(huge_bytes) of that in huge pages, C(page_tables_bytes) of the
    C(processes) that have them mapped.
  returned: success and O(state=present)
  type: dict
  sample: {"used_bytes": 2147483648, "huge_bytes": 0, "page_tables_bytes": 24012390, "processes": 24}
after:
  description: The same, measured after; in check mode as before.
  returned: success and O(state=present)
  type: dict
  sample: {"used_bytes": 2147483648, "huge_bytes": 2147483648, "page_tables_bytes": 3565158, "processes": 24}
collapsed_bytes:
  description: How much was put into huge pages, or would be in check mode.
  returned: success and O(state=present)
  type: int
  sample: 2147483648
left:
  description: What stays in small pages, with C(reason) and C(size_bytes).
  returned: success and O(state=present)
  type: list
  elements: dict
  sample: []
seconds:
  description: How long it took.
  returned: success and O(state=present)
  type: float
  sample: 13.8
service:
  description:
    - The service that keeps the server in huge pages. C(running), its C(pid), C(kept_by) (V(systemd) or V(detached)), and C(news),
      what came of its last collapse.
  returned: success, and O(follow=true) or O(state=absent)
  type: dict
  sample:
    target: /var/lib/postgresql/15/main
    running: true
    pid: 901
    kept_by: systemd
    interval_seconds: 30.0
    rate_bytes:
    news:
actions:
  description: What was done about the service, or in check mode would be done; one sentence each.
  returned: success, and O(follow=true) or O(state=absent)
  type: list
  elements: str
  sample: ["start the service that keeps /var/lib/postgresql/15/main in huge pages"]
boot:
  description: Whether the service comes back after a reboot.
  returned: success, and O(follow=true) or O(state=absent)
  type: dict
  sample: {"managed": true, "enabled": true, "reason": null}
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

from ansible_collections.dbmem.mshare.plugins.module_utils import _converge, _module, _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.collapse.collapse import (
    Figures,
    Result,
    collapse,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.collapse.converge import (
    Kept,
    keep,
    let_go,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.collapse.spec import FollowSpec, rate
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.units import format_size


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


def of_collapse(result: Result) -> dict[str, Any]:
    return {**result.to_dict(), "summary": result.lines(), "diff": diff(result)}


def of_service(kept: Kept) -> dict[str, Any]:
    """The result of a collapse and of the service that repeats it."""
    outcome = kept.service
    pairs = _results.diff(kept.result.command, outcome.before, outcome.after) if outcome.changed else []
    return {
        **of_collapse(kept.result),
        "changed": kept.changed,
        "actions": outcome.actions,
        "boot": outcome.boot,
        "service": outcome.answer(),
        "diff": [diff(kept.result), *pairs],
        "warnings": outcome.warnings,
    }


def require_enough(module: AnsibleModule, result: Result, results: dict[str, Any]) -> None:
    minimum = module.params["minimum_percent"]
    if module.check_mode or 100 * result.after.huge_bytes >= minimum * result.after.used_bytes:
        return
    module.fail_json(
        msg=f"{' '.join(result.lines())} At least {minimum} % should be; free memory, or run this again"
        " when the server is less busy",
        error_kind="error",
        **results,
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "target": {"type": "str", "required": True},
            "follow": {"type": "bool", "default": False},
            "interval": {"type": "float", "default": 30},
            "rate": {"type": "str"},
            "minimum_percent": {"type": "int", "default": 90},
            "executable": {"type": "path", "default": "/usr/local/bin/mshare"},
        },
        supports_check_mode=True,
    )
    params, check = module.params, module.check_mode
    if params["state"] == "absent":
        gone = _module.attempt(module, lambda: let_go(params["target"], check=check))
        summary = gone.actions or [f"No service keeps {params['target']} in huge pages."]
        _converge.report(module, gone, params["target"], service=gone.answer(), summary=summary)
    rate_bytes = _module.attempt(module, lambda: rate(params["rate"]))
    if params["follow"]:
        kept: Kept = _module.attempt(
            module,
            lambda: keep(
                FollowSpec(params["target"], rate_bytes, params["interval"]),
                _module.program(module),
                minimum_percent=params["minimum_percent"],
                check=check,
            ),
        )
        results = of_service(kept)
        require_enough(module, kept.result, results)
        _module.end(module, results)
    result: Result = _module.attempt(
        module, lambda: collapse(params["target"], rate_bytes=rate_bytes, check=check)
    )
    results = of_collapse(result)
    require_enough(module, result, results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
