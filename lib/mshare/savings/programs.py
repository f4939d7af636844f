# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that have a region mapped without a launcher, such as the backends of a database.

Only reads processes, hundreds at once, and so reads /proc itself: psutil opens several files for each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..backends import root as roots
from ..errors import MshareError, Unavailable
from ..host import pagemap, processes, segments
from ..host.processes import Process, Vanished
from ..host.segments import Mapping as HostMapping
from ..info import inventory
from ..pagetable import BASE_PAGE_BYTES
from .clients_seen import ClientsSeen


@dataclass(frozen=True)
class Programs:
    """Programs that have a region mapped."""

    seen: ClientsSeen
    """As if a launcher had started them."""
    counts: Mapping[str, int]
    """How many there are, by name."""


def attached_programs(root: str, region: str, backend: str) -> Programs | None:
    """Who has a region mapped; None if nobody has but its owner.

    Page tables are only those of the region's mappings, from a scan of each process. On a kernel the
    tables are shared and belong to no process, so they are left out.
    """
    facts = inventory.region_facts(root, region)
    clients = [(process, own) for process, own in _attached(root, region) if process.pid != facts.owner.pid]
    if not clients:
        return None
    seen = ClientsSeen(
        region=region,
        backend=backend,
        requested=len(clients),
        attached=len(clients),
        window_bytes=facts.window_bytes,
        mapped_bytes=facts.mapped_bytes,
        attached_how="processes that have the region mapped, besides its owner",
    )
    if backend == "simulated":
        after_bytes = sum(process.vm_pte_bytes for process, __ in clients)
        seen = replace(
            seen,
            vm_pte_after_bytes_sum=after_bytes,
            vm_pte_before_bytes_sum=after_bytes
            - sum(_tables_bytes(process, own) for process, own in clients),
            grown_how="page tables of the region's mapping, by a scan of each process",
        )
    return Programs(seen, Counter(process.name for process, __ in clients))


def _attached(root: str, region: str) -> Iterator[tuple[Process, list[HostMapping]]]:
    """Processes that have a file mapped, with the mappings."""
    try:
        file = roots.status(root, region)
    except (MshareError, OSError):
        return
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}".encode()
    reader = segments.Reader()
    for process in processes.read_all().processes:
        try:
            mappings = reader.shared(process)
        except (Vanished, ProcessLookupError, PermissionError):
            continue
        own = [mapping for mapping in mappings if mapping.identity == (device, file.st_ino)]
        if own:
            yield process, own


def _tables_bytes(process: Process, own: list[HostMapping]) -> int:
    try:
        with pagemap.Pagemap(process.pid) as opened:
            tables = pagemap.tables(opened, [(mapping, BASE_PAGE_BYTES) for mapping in own])
    except (FileNotFoundError, ProcessLookupError):
        # It has ended, and its page tables with it.
        return 0
    except PermissionError:
        raise Unavailable(
            f"process {process.pid} ({process.name}) has the region mapped, and uid {os.geteuid()} may not"
            " read its page tables; run as root (become: true)"
        ) from None
    return sum(table.bytes for table in tables.values())
