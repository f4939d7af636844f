# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a region its clients can touch on this host."""

from __future__ import annotations

from ..backends import root as roots
from ..errors import MshareError
from ..host import procfs
from ..pagetable import page_tables, span_for_budget
from ..units import MIB, counted, format_size
from . import client

# The clients may take this part of the free memory with their page tables.
_MEMORY_SHARE = 4


def next_span(
    target: client.Target,
    requested_bytes: int | None,
    count: int,
    alive: int,
    current_bytes: int,
    used_bytes: int,
    client_bytes: int,
) -> int:
    """What each of `count` clients touches when `alive` of them have touched `current_bytes`. A client costs
    `client_bytes` besides its page tables.

    Less than that means that those have to start anew. On a kernel the tables of the span exist already,
    once for all, so more clients cost no more of them: the span stays, and nobody is ended. MshareError where
    not even the processes fit.
    """
    if target.backend.name == "kernel" and alive:
        if count > alive:
            fit_span(target, count - alive, client_bytes)
        return current_bytes
    fitting_bytes = requested_bytes or fit_span(target, count, client_bytes, used_bytes)
    return min(fitting_bytes, current_bytes) if alive else fitting_bytes


def fit_span(target: client.Target, count: int, client_bytes: int, used_bytes: int = 0) -> int:
    """How many bytes each of `count` clients can touch without exhausting the host's memory.

    On a kernel the tables are there once; the simulator's clients really pay for their own. What
    clients that run already take, `used_bytes`, is counted as free. Raises MshareError where not even
    the processes fit.
    """
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0) + used_bytes
    budget_bytes = available_bytes // _MEMORY_SHARE - count * client_bytes
    if budget_bytes < 0:
        budget_bytes = available_bytes // 2 - count * client_bytes
    payers = 2 if target.backend.name == "kernel" else count + 1
    # The pages are there once: one page of 4 KiB for each leaf table of 4 KiB.
    span_bytes = min(target.mapped_bytes, span_for_budget(budget_bytes // payers))
    if span_bytes <= 0:
        needed_bytes = count * (client_bytes + page_tables(1).total_bytes)
        raise MshareError(
            f"{counted(count, 'client needs', 'clients need')} at least {format_size(needed_bytes)}, but only"
            f" half of this host's available {format_size(available_bytes)} may be used; start fewer"
            " clients, or free some memory"
        )
    # A quarter of the room on the tmpfs and of the slice's limit: on a kernel the tables count as well.
    free_bytes = roots.free_bytes(target.backend.root)
    rooms = [room for room in (free_bytes, target.memory_max_bytes) if room is not None]
    return min([span_bytes, *(max(2 * MIB, room_bytes // 4 * 512) for room_bytes in rooms)])
