# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What page tables cost: connections that touch the same part of the segment, before a move and after."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from ..errors import InvalidRequest, MshareError
from ..host import procfs
from ..pagetable import STRIDE_BYTES, page_tables
from ..savings import baseline
from ..units import format_size
from .placement import Segment
from .server import Connection

# The connections' page tables, and what the host has to find for them, while it is measured.
_MEMORY_SHARE = 8
# Memory of which every page can be faulted in from outside, as far as it is mapped. "msharefs" are simulated
# regions, for those of a kernel share their tables.
_TOUCHED_KINDS = ("anonymous", "sysv", "memfd", "posix", "tmpfs", "hugetlb", "msharefs")
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
        if self.shared_bytes:
            return "VmPTE of each as it is: the tables of a region are in nobody's, however much is touched"
        return f"VmPTE of each, after a page in every 2 MiB of {format_size(self.span_bytes)} was read in it"

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {**vars(self), "how": self.how}


def segment_bytes(connection: Connection) -> int:
    """The size of the server's segment, as the server reports it: the same wherever it lies."""
    return int(connection.ask(_SIZE))


def span_bytes(size_bytes: int, connections: int) -> int:
    """How much of a segment that number of connections can touch without using up the host's memory."""
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    fitting_bytes = baseline.largest_span(available_bytes // _MEMORY_SHARE, STRIDE_BYTES, connections)
    return min(size_bytes, fitting_bytes or size_bytes)


def touch(pid: int, segment: Segment, size_bytes: int) -> None:
    """Have a process read a page in every 2 MiB of its segment, as if it had done so itself.

    A read through /proc/PID/mem faults in the process's own page tables, where a query would touch
    what happens to be cached. Never in a window of a kernel with mshare: at an address where nothing is
    mapped, or no page is present, such a read makes the kernel warn, and panic with panic_on_warn.
    MshareError for who may not.
    """
    if segment.shares_tables or segment.kind not in _TOUCHED_KINDS:
        raise InvalidRequest(f"{segment.text} is not touched from outside; only its own process may do that")
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise MshareError(
            f"process {pid} may not be read by uid {os.geteuid()} (/proc/{pid}/mem), which measuring its"
            " page tables needs; run as root with CAP_SYS_PTRACE, or do without (probes: 0)"
        ) from None
    try:
        # No further than what is mapped: behind it may lie anything.
        mapped_bytes = segment.size_bytes if segment.window_bytes is None else segment.window_bytes
        end, at = segment.address + min(size_bytes, mapped_bytes), segment.address
        while at < end:
            # A page that cannot be had (a file that was truncated, a full tmpfs) costs nobody a table.
            with contextlib.suppress(OSError):
                os.pread(fd, 1, at)
            at = (at // STRIDE_BYTES + 1) * STRIDE_BYTES
    finally:
        os.close(fd)


def cost(opened: list[Connection], segment: Segment, size_bytes: int) -> Cost:
    """Measure it for connections that have a segment by fork, whose page tables they share or do not."""
    if not segment.shares_tables:
        for connection in opened:
            touch(connection.pid, segment, size_bytes)
    tables = [_vm_pte_bytes(connection.pid) for connection in opened]
    shared_bytes = page_tables(size_bytes).total_bytes if segment.shares_tables else 0
    return Cost(len(tables), size_bytes, sum(tables), sum(tables) // len(tables), shared_bytes)


def _vm_pte_bytes(pid: int) -> int:
    size_bytes = procfs.vm_pte_bytes(pid)
    if size_bytes is None:
        raise MshareError(f"connection {pid} ended while its page tables were measured; try again")
    return size_bytes
