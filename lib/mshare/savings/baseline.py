# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures what page tables cost on this host without sharing, with a probe on plain shared memory.

Real processes map a sparse memfd, touch a page in every stride, and read their own VmPTE before and
after. Only the standard library: this runs in an Ansible module on a host with nothing installed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from .. import record
from ..errors import InvalidRequest, MshareError, sentence
from ..host import procfs
from ..pagetable import BASE_PAGE_BYTES, STRIDE_BYTES, TABLE_BYTES, page_tables
from ..printable import signal_name
from ..units import GIB, counted, format_size

MAX_PROCESSES = 64
EDGE_BYTES = 6 * TABLE_BYTES
"""How far a process may differ from the model: at each end of the range it can share a leaf, a PMD and
a PUD table with adjacent mappings."""
_MEMFD = "mshare-baseline"
_PAGES_PER_READ = 4096
_USABLE_PERCENT = 90


@dataclass(frozen=True)
class ProcessTables:
    """Page tables of a process before and after it mapped and touched the memory."""

    address: int
    vm_pte_before_bytes: int
    vm_pte_after_bytes: int
    modelled_bytes: int
    """The model for exactly this address range."""

    @property
    def measured_bytes(self) -> int:
        return self.vm_pte_after_bytes - self.vm_pte_before_bytes

    @property
    def difference_bytes(self) -> int:
        """Measured minus modelled."""
        return self.measured_bytes - self.modelled_bytes

    @property
    def error_percent(self) -> float:
        return abs(self.difference_bytes) * 100 / self.modelled_bytes

    def to_dict(self) -> dict[str, object]:
        return {
            **asdict(self),
            "measured_bytes": self.measured_bytes,
            "difference_bytes": self.difference_bytes,
        }


@dataclass(frozen=True)
class _Report:
    """What a process of the probe reports: figures by name, or why it has none."""

    figures: Mapping[str, int] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Baseline:
    """The result of the probe: at least one process, all with the same span."""

    span_bytes: int
    stride_bytes: int
    processes: tuple[ProcessTables, ...]

    @property
    def measured_bytes(self) -> int:
        """Page tables per process, measured: the mean, in whole bytes."""
        return sum(process.measured_bytes for process in self.processes) // len(self.processes)

    @property
    def worst(self) -> ProcessTables:
        """The process that differs most from the model."""
        return max(self.processes, key=lambda process: abs(process.difference_bytes))

    def to_dict(self) -> dict[str, object]:
        return {
            "span_bytes": self.span_bytes,
            "stride_bytes": self.stride_bytes,
            "measured_bytes": self.measured_bytes,
            "processes": [process.to_dict() for process in self.processes],
        }


def measure(span_bytes: int, stride_bytes: int = STRIDE_BYTES, processes: int = 2) -> Baseline:
    """Let real processes map and touch `span_bytes` of plain shared memory, and measure their tables.

    Raises InvalidRequest unless a span is at least a page and a stride whole pages up to 2 MiB;
    MshareError if the host has too little memory or a process of the probe fails.
    """
    _check_request(span_bytes, stride_bytes, processes)
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    check_memory(span_bytes, stride_bytes, processes, available_bytes)
    memory_fd = os.memfd_create(_MEMFD, os.MFD_CLOEXEC)
    try:
        os.ftruncate(memory_fd, span_bytes)
        reports = forked(lambda: _observe(memory_fd, span_bytes, stride_bytes), processes)
    finally:
        os.close(memory_fd)
    return Baseline(span_bytes, stride_bytes, tuple(ProcessTables(**report) for report in reports))


def _check_request(span_bytes: int, stride_bytes: int, processes: int) -> None:
    if span_bytes < BASE_PAGE_BYTES:
        raise InvalidRequest(f"a baseline over {span_bytes} bytes needs at least a page of 4 KiB")
    if not BASE_PAGE_BYTES <= stride_bytes <= STRIDE_BYTES or stride_bytes % BASE_PAGE_BYTES:
        raise InvalidRequest(
            f"stride {stride_bytes} must be a multiple of 4 KiB and at most 2 MiB: a longer one"
            " leaves out ranges, and with them page tables"
        )
    if not 1 <= processes <= MAX_PROCESSES:
        raise InvalidRequest(f"a baseline takes 1 to {MAX_PROCESSES} processes, not {processes}")


def needed_bytes(span_bytes: int, stride_bytes: int = STRIDE_BYTES, processes: int = 2) -> int:
    """The memory that a baseline needs: the tables of all processes, and the touched pages once."""
    tables_bytes = page_tables(span_bytes).total_bytes + EDGE_BYTES
    return processes * tables_bytes + _touched_bytes(span_bytes, stride_bytes)


def _touched_bytes(span_bytes: int, stride_bytes: int) -> int:
    return (span_bytes // stride_bytes + 2) * BASE_PAGE_BYTES


def largest_span(memory_bytes: int, stride_bytes: int = STRIDE_BYTES, processes: int = 2) -> int:
    """The largest span in whole 2 MiB whose baseline needs at most `memory_bytes`; 0 if none does."""
    low, high = 0, memory_bytes // TABLE_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if needed_bytes(middle * STRIDE_BYTES, stride_bytes, processes) <= memory_bytes:
            low = middle
        else:
            high = middle - 1
    return low * STRIDE_BYTES


def check_memory(span_bytes: int, stride_bytes: int, processes: int, available_bytes: int) -> None:
    """Refuse a baseline that needs more than 90 % of the available memory."""
    usable_bytes = available_bytes * _USABLE_PERCENT // 100
    needed = needed_bytes(span_bytes, stride_bytes, processes)
    if needed <= usable_bytes:
        return
    touched = _touched_bytes(span_bytes, stride_bytes)
    fitting = largest_span(usable_bytes, stride_bytes, processes)
    # In whole GiB, so that the size as it is written fits too.
    fitting -= fitting % GIB if fitting > GIB else 0
    step = f"ask for a span of at most {format_size(fitting)}" if fitting else "free some memory"
    raise MshareError(
        f"a baseline over {format_size(span_bytes)} in {counted(processes, 'process', 'processes')} needs"
        f" {format_size(needed)} ({format_size(needed - touched)} of page tables and"
        f" {format_size(touched)} of touched pages), but of the {format_size(available_bytes)}"
        f" available on this host it may use {_USABLE_PERCENT} %; {step}"
    )


def forked(work: Callable[[], dict[str, int]], count: int) -> list[dict[str, int]]:
    """Run `work` in `count` processes at once and return what each one reports.

    MshareError with the reason when one of them fails or is killed; none is left running.
    """
    running: dict[int, int] = {}
    try:
        for __ in range(count):
            pid, report_fd = _fork(work)
            running[pid] = report_fd
        return [_collect(pid, running) for pid in list(running)]
    finally:
        for pid, report_fd in running.items():
            os.close(report_fd)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait(pid)


def _fork(work: Callable[[], dict[str, int]]) -> tuple[int, int]:
    report_fd, write_fd = os.pipe()
    try:
        pid = os.fork()
    except BaseException:
        os.close(report_fd)
        os.close(write_fd)
        raise
    if pid == 0:
        _in_child(work, write_fd)
    os.close(write_fd)
    return pid, report_fd


def _in_child(work: Callable[[], dict[str, int]], write_fd: int) -> None:
    # Nothing of the parent may run here: no exit handlers, no signal handlers, no flush of its buffers.
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        try:
            report = _Report(figures=work())
        except (OSError, MemoryError, MshareError) as error:
            report = _Report(error=sentence(error) or type(error).__name__)
        os.write(write_fd, record.to_json(report).encode())
        os._exit(0)
    finally:
        os._exit(1)


def _collect(pid: int, running: dict[int, int]) -> dict[str, int]:
    with open(running[pid], "rb", closefd=False) as stream:
        text = stream.read()
    os.close(running.pop(pid))
    code = _wait(pid)
    if code < 0:
        raise MshareError(
            f"process {pid} of the baseline was killed by {signal_name(-code)}; if that was the"
            " OOM killer (see dmesg, and the memory limit of this cgroup), use a smaller span"
        )
    if not text:
        raise MshareError(f"process {pid} of the baseline ended with code {code} and no report")
    report = record.parse(_Report, text, f"the report of process {pid} of the baseline", "measure again")
    if report.figures is None:
        raise MshareError(f"process {pid} of the baseline failed: {report.error}")
    return {**report.figures}


def _wait(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        # SIGCHLD was ignored when this program was started, so the kernel reaps without a status.
        return 0


def _observe(memory_fd: int, span_bytes: int, stride_bytes: int) -> dict[str, int]:
    # A fork starts without page tables for the program's own code. Run every line once before, so that
    # neither those nor the heap's tables grow between the two readings.
    _map_and_touch(memory_fd, min(span_bytes, stride_bytes), stride_bytes)
    return _map_and_touch(memory_fd, span_bytes, stride_bytes)


def _map_and_touch(memory_fd: int, span_bytes: int, stride_bytes: int) -> dict[str, int]:
    before_bytes = procfs.vm_pte_bytes()
    with mmap.mmap(memory_fd, span_bytes, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
        with contextlib.suppress(OSError):
            # With transparent huge pages for shmem, one touch would take 2 MiB. A kernel without them
            # returns EINVAL.
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        _touch(memory, stride_bytes)
        after_bytes = procfs.vm_pte_bytes()
        address = _address()
    return {
        "address": address,
        "vm_pte_before_bytes": before_bytes or 0,
        "vm_pte_after_bytes": after_bytes or 0,
        "modelled_bytes": page_tables(span_bytes, start=address).total_bytes,
    }


def _touch(memory: mmap.mmap, stride_bytes: int) -> None:
    read_bytes = stride_bytes * _PAGES_PER_READ
    with memoryview(memory) as view:
        # A strided slice is read at C speed; in parts, because its result is on the heap.
        for start in range(0, len(view), read_bytes):
            bytes(view[start : start + read_bytes : stride_bytes])
        # A range that does not start at a multiple of 2 MiB has one more leaf table at its end.
        bytes(view[-1:])


def _address() -> int:
    """Where the memfd is mapped in this process."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        return next(int(line.partition("-")[0], 16) for line in maps if f"/memfd:{_MEMFD}" in line)
