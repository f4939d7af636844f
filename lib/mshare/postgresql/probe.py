# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What page tables cost: connections that touch the same part of the segment, before a move and after."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from ..errors import MshareError
from ..host import procfs
from ..pagetable import STRIDE_BYTES, page_tables
from ..savings import baseline
from ..units import format_size
from .placement import Segment
from .server import Connection

# The connections' page tables, and what the host has to find for them, while it is measured.
_MEMORY_SHARE = 8
_SIZE = (
    "SELECT coalesce(pg_size_bytes(current_setting('shared_memory_size', true)),"
    " pg_size_bytes(current_setting('shared_buffers')))"
)


@dataclass(frozen=True)
class Cost:
    """Page tables of a number of connections."""

    connections: int
    span_bytes: int
    sum_bytes: int
    average_bytes: int
    shared_bytes: int = 0
    """Tables that all of them share, which no process's VmPTE counts: modelled, not measured."""
    kind: str = "measured"

    @property
    def how(self) -> str:
        return f"VmPTE of each, after a page in every 2 MiB of {format_size(self.span_bytes)} was read in it"

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {**vars(self), "how": self.how}


def segment_bytes(connection: Connection) -> int:
    """How large the server's segment is, as it says itself: the same wherever it lies."""
    return int(connection.ask(_SIZE))


def span_bytes(size_bytes: int, connections: int) -> int:
    """How much of a segment so many connections can touch without making the host short of memory."""
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    fitting_bytes = baseline.largest_span(available_bytes // _MEMORY_SHARE, STRIDE_BYTES, connections)
    return min(size_bytes, fitting_bytes or size_bytes)


def touch(pid: int, address: int, size_bytes: int) -> None:
    """Have a process read a page in every 2 MiB of its memory, as if it had done so itself.

    A read through /proc/PID/mem faults in the process's own page tables, where a query would touch
    what happens to be cached. MshareError for who may not.
    """
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise MshareError(
            f"process {pid} may not be read by uid {os.geteuid()} (/proc/{pid}/mem), which measuring its"
            " page tables needs; run as root with CAP_SYS_PTRACE, or do without (probes: 0)"
        ) from None
    try:
        end, at = address + size_bytes, address
        while at < end:
            # What is not mapped there (behind the memory in a region's window) costs nobody a table.
            with contextlib.suppress(OSError):
                os.pread(fd, 1, at)
            at = (at // STRIDE_BYTES + 1) * STRIDE_BYTES
    finally:
        os.close(fd)


def cost(opened: list[Connection], segment: Segment, size_bytes: int, *, shares_tables: bool) -> Cost:
    """Measure it for connections that share a segment, whose page tables they share as well or do not."""
    for connection in opened:
        touch(connection.pid, segment.address, min(size_bytes, segment.size_bytes))
    tables = [procfs.vm_pte_bytes(connection.pid) or 0 for connection in opened]
    shared_bytes = page_tables(size_bytes, start=segment.address).total_bytes if shares_tables else 0
    return Cost(len(tables), size_bytes, sum(tables), sum(tables) // len(tables), shared_bytes)
