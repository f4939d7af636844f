# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the status file of a process says before that process has done anything.

Whoever starts a process writes it in the same instant, so that nothing runs that is not listed: a teardown
finds, and ends, what a deployment that was cut off had only begun to start.
"""

from __future__ import annotations

from typing import Any

from .spec import ClientsSpec


def of_launcher(spec: ClientsSpec, root: str) -> dict[str, Any]:
    """Of the launcher of a region's clients: sizes in bytes, times in milliseconds, zero until measured."""
    return {
        "state": "starting",
        "region": spec.region,
        "root": root,
        "spec": spec.to_dict(),
        "reloads": 0,
        "owner_alive": True,
        "requested": spec.count,
        "attached": 0,
        "pids": [],
        "dead": [],
        "errors": [],
        "window_bytes": None,
        "mapped_bytes": None,
        "span_bytes": 0,
        "span_fitted": False,
        "stride_bytes": spec.stride,
        "attach_ms_median": 0.0,
        "attach_ms_max": 0.0,
        "vm_pte_before_bytes_sum": 0,
        "vm_pte_after_bytes_sum": 0,
        "host_page_tables_before_bytes": None,
        "host_page_tables_after_bytes": None,
    }
