# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page tables of a kernel's region, which are there once for all and in no process's VmPTE: measured."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..host import mounts, procfs
from ..info.facts import ClientsFacts
from ..region.status import OwnerStatus, running_owner


@dataclass(frozen=True)
class SharedTables:
    """What the tables of a region take."""

    size_bytes: int
    how: str
    """The counters that were read."""
    touched_bytes: int
    """How much of the region was touched by its owner, if that is more than its clients did."""


def of_region(root: str, region: str, clients: ClientsFacts) -> SharedTables | None:
    """Measure them; None where nothing was written down that could be compared.

    The kernel charges them to the owner's cgroup. Where the owner is alone in one (under systemd), its
    counter has them and nothing else; elsewhere the host's PageTables has, together with everything that ran.
    """
    owner = running_owner(region, root)
    if owner is None:
        return None
    own_bytes = procfs.vm_pte_bytes(owner.pid)
    if own_bytes is None:
        return None
    charged_bytes = _charged_bytes(owner.pid)
    if charged_bytes is not None:
        how = "pagetables in memory.stat of the owner's cgroup minus the owner's VmPTE"
        return SharedTables(charged_bytes - own_bytes, how, owner.touched_bytes)
    return _from_host(owner, own_bytes, clients)


def _from_host(owner: OwnerStatus, own_bytes: int, clients: ClientsFacts) -> SharedTables | None:
    before_bytes, after_bytes = owner.host_page_tables_before_bytes, clients.host_page_tables_after_bytes
    clients_bytes, launcher_bytes = clients.vm_pte_after_bytes_sum, _launcher_bytes(clients)
    if before_bytes is None or after_bytes is None or clients_bytes is None or launcher_bytes is None:
        return None
    return SharedTables(
        after_bytes - before_bytes - own_bytes - clients_bytes - launcher_bytes,
        "growth of PageTables since before the region was made, minus VmPTE of owner, launcher, clients",
        owner.touched_bytes,
    )


def _launcher_bytes(clients: ClientsFacts) -> int | None:
    return None if clients.launcher_pid is None else procfs.vm_pte_bytes(clients.launcher_pid)


def _charged_bytes(pid: int) -> int | None:
    """pagetables of a process's cgroup (version 2); None where others are in it, or there is none."""
    paths = [path for number, __, path in procfs.cgroups(procfs.read(f"/proc/{pid}/cgroup")) if number == "0"]
    mounted = [mount.path for mount in mounts.mounts() if mount.filesystem == "cgroup2"]
    if not paths or not mounted:
        return None
    folder = os.path.join(mounted[0], paths[0].lstrip("/"))
    if (procfs.read(os.path.join(folder, "cgroup.procs")) or "").split() != [str(pid)]:
        return None
    stat = dict(line.split(" ", 1) for line in procfs.lines(procfs.read(os.path.join(folder, "memory.stat"))))
    return int(stat["pagetables"]) if "pagetables" in stat else None
