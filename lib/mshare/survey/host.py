# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the host that page tables are paid on."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from .. import record
from ..host import huge_pages, mounts, procfs
from ..host.pagemap import scan_available
from ..host.procfs import read_line
from ..info import inventory

Facts = dict[str, Any]
_THP = "/sys/kernel/mm/transparent_hugepage"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def facts() -> Facts:
    """Memory, huge pages, settings, and whether mshare can be used."""
    memory = procfs.meminfo_bytes()
    kernel = os.uname()
    return {
        "name": kernel.nodename,
        "kernel": kernel.release,
        # Containers of one machine have one PageTables: who adds hosts up counts a kernel once.
        "boot_id": read_line(_BOOT_ID),
        "page_tables_bytes": memory.get("PageTables", 0),
        "memory_total_bytes": memory.get("MemTotal", 0),
        "memory_available_bytes": memory.get("MemAvailable", 0),
        "huge_page_pools": [asdict(pool) for pool in huge_pages.pools()],
        "thp": {
            "anonymous": _chosen(read_line(f"{_THP}/enabled")),
            "shmem": _chosen(read_line(f"{_THP}/shmem_enabled")),
        },
        "overcommit_memory": procfs.sysctl("vm.overcommit_memory"),
        "hidepid": hidepid(),
        "mshare": record.to_fields(inventory.support()),
        "pagemap_scan": scan_available(),
    }


def _chosen(line: str | None) -> str | None:
    """The word in brackets: "always [madvise] never"."""
    if line is None or "[" not in line:
        return line
    return line[line.index("[") + 1 : line.index("]")]


def hidepid() -> str | None:
    """How /proc hides the processes of others: None when it does not."""
    mount = mounts.mount_at("/proc")
    for option in (mount.super_options if mount else "").split(","):
        name, __, value = option.partition("=")
        if name == "hidepid" and value not in ("0", "off"):
            return value
    return None
