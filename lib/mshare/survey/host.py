# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the host that page tables are paid on."""

from __future__ import annotations

import os
from typing import Any

from .. import inventory, procfs
from ..units import KIB
from .pagemap import scan_available

Facts = dict[str, Any]

_POOLS = "/sys/kernel/mm/hugepages"
_NODES = "/sys/devices/system/node"
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
        "boot_id": _line(_BOOT_ID),
        "page_tables_bytes": memory.get("PageTables", 0),
        "memory_total_bytes": memory.get("MemTotal", 0),
        "memory_available_bytes": memory.get("MemAvailable", 0),
        "huge_page_pools": huge_page_pools(),
        "thp": {
            "anonymous": _chosen(_line(f"{_THP}/enabled")),
            "shmem": _chosen(_line(f"{_THP}/shmem_enabled")),
        },
        "overcommit_memory": procfs.sysctl("vm.overcommit_memory"),
        "hidepid": hidepid(),
        "mshare": inventory.support(),
        "pagemap_scan": scan_available(),
    }


def _line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _chosen(line: str | None) -> str | None:
    """The word in brackets: "always [madvise] never"."""
    if line is None or "[" not in line:
        return line
    return line[line.index("[") + 1 : line.index("]")]


def _folder(path: str, prefix: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if name.startswith(prefix))
    except OSError:
        return []


def huge_page_pools() -> list[Facts]:
    """Every pool: per page size for the whole host (node None), then per NUMA node."""
    places: list[tuple[int | None, str]] = [(None, _POOLS)]
    places += [
        (int(name[4:]), f"{_NODES}/{name}/hugepages")
        for name in _folder(_NODES, "node")
        if name[4:].isdigit()
    ]
    return [
        {
            "page_bytes": int(name[10:-2]) * KIB,
            "node": node,
            "total": _number(f"{path}/{name}/nr_hugepages"),
            "free": _number(f"{path}/{name}/free_hugepages"),
            # Kept for the host as a whole only.
            "reserved": _number(f"{path}/{name}/resv_hugepages"),
        }
        for node, path in places
        for name in _folder(path, "hugepages-")
    ]


def _number(path: str) -> int | None:
    line = _line(path)
    return int(line) if line and line.isdigit() else None


def hidepid() -> str | None:
    """How /proc hides the processes of others: None when it does not."""
    mount = procfs.mount_at("/proc")
    for option in (mount.super_options if mount else "").split(","):
        name, __, value = option.partition("=")
        if name == "hidepid" and value not in ("0", "off"):
            return value
    return None
