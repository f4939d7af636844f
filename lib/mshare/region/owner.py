# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The owner: the long-lived process that a region lives and dies with.

On the newest generation a region belongs to the *task* that created its file, so the owner creates it
from its main thread and then stays. It reports when the region is ready (to systemd, and in a status
file), and on SIGTERM removes the region's name before it ends. A failure is undone.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType

from .. import files
from ..backends import root as roots
from ..backends.base import Backend
from ..backends.connect import connect
from ..backends.mapping import MappingEntry
from ..converge import memory
from ..errors import Conflict, Failure, InvalidRequest, MshareError
from ..host import procfs
from ..pagetable import BASE_PAGE_BYTES, STRIDE_BYTES, page_tables, span_for_budget
from ..services import signals, status_file
from ..services.lock import locked
from ..services.notify import notify
from ..units import GIB, format_size
from .pattern import Pattern
from .region import Region, RegionStat
from .spec import RegionSpec
from .status import OWNER, OwnerStatus, Prefault, starting

OOM_SCORE_ADJUST = -900
"""Its death kills the database, so the OOM killer should choose it last."""
# The pattern may use an eighth of the free memory (a page and a leaf table for each 2 MiB).
_PATTERN_SHARE = 8
_PROGRESS_SECONDS = 0.5


class _Stop(BaseException):
    """SIGTERM or SIGINT: the way out, through every `finally`."""


def _on_stop(number: int, frame: FrameType | None) -> None:
    raise _Stop


class _Status:
    """The owner's status file, and its messages to systemd."""

    def __init__(self, path: str, first: OwnerStatus) -> None:
        self._path = path
        self._told = 0.0
        self.now = first

    def write(self, status: OwnerStatus) -> None:
        self.now = status
        status_file.write(self._path, status)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.write(replace(self.now, state="prefaulting", prefault=Prefault(done_bytes, total_bytes)))
        text = f"prefaulted {format_size(done_bytes)} of {format_size(total_bytes)}"
        # Prefaulting for minutes must not look like a service that hangs.
        notify(STATUS=text, EXTEND_TIMEOUT_USEC=str(60_000_000))

    def seldom(self, done_bytes: int, total_bytes: int) -> None:
        """As `progress`, for who has it more often than anybody reads it."""
        if time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.progress(done_bytes, total_bytes)

    def ready(self) -> None:
        self.write(replace(self.now, state="ready"))
        notify(READY="1", STATUS=f"region {self.now.region} is ready")

    def failed(self, error: BaseException) -> None:
        self.write(replace(self.now, state="failed", error=Failure.of(error)))


def run(
    spec: RegionSpec,
    *,
    replace_stale: bool = False,
    supervised: bool = True,
    on_ready: Callable[[OwnerStatus], None] = lambda status: None,
) -> None:
    """Own a region until SIGTERM or SIGINT. Must be called from the main thread of a process.

    `on_ready` is called with the status once the region can be attached. When it is
    `supervised`, the reason of a failure stays in the status file for the process that started it.

    Raises Conflict if the region has an owner, or if a killed owner left its name behind and
    `replace_stale` is not set.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidRequest("a region is owned by the thread that creates it; use the main thread")
    backend = connect(spec.backend, spec.root)
    status_path = status_file.file(backend.root, spec.name, OWNER)
    lock = status_file.file(backend.root, spec.name, OWNER, "lock")
    with locked(lock, f"the ownership of region {spec.name}"):
        status = _Status(
            status_path,
            replace(
                starting(spec.name, backend.root, spec.to_dict()),
                path=backend.path(spec.name),
                backend=backend.name,
                generation=backend.generation.id,
            ),
        )
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, _on_stop)
            _own(spec, backend, status, replace_stale, on_ready)
        except _Stop:
            files.remove(status_path)
        except (MshareError, OSError) as error:
            if supervised:
                status.failed(error)
            else:
                status_file.remove_own(backend.root, spec.name, OWNER)
            raise
        finally:
            # The lock is still held. A process that comes now creates its own lock file; the region is gone.
            files.remove(lock)


def _own(
    spec: RegionSpec,
    backend: Backend,
    status: _Status,
    replace_stale: bool,
    on_ready: Callable[[OwnerStatus], None],
) -> None:
    memory.check(spec.memory_bytes, overcommit=spec.overcommit, prefault=spec.prefault)
    if spec.prefault:
        memory.check_room(spec.name, spec.memory_bytes, backend.root)
    uid, gid = spec.ids()
    roots.require_place(backend.root, spec.name)
    _clear_stale(spec.name, backend, replace_stale)
    before_bytes = procfs.meminfo_bytes().get("PageTables")
    status.write(
        replace(status.now, oom_score_adjust=_resist_oom(), host_page_tables_before_bytes=before_bytes)
    )
    with _created(spec, backend) as created:
        created.set_access(spec.mode, uid, gid)
        stat = created.stat()
        status.write(
            replace(
                status.now,
                address=stat.address,
                window_bytes=stat.window_bytes,
                # A generation without explicit mappings fills the whole window.
                mapped_bytes=stat.mapped_bytes if stat.mapped_bytes is not None else spec.mapped_bytes,
                mappings=tuple(MappingEntry.of(mapping) for mapping in stat.mappings or spec.mappings),
            )
        )
        if spec.prefault or spec.pattern:
            _fill(spec, stat, backend, status)
        status.ready()
        on_ready(status.now)
        signals.wait_for_ever()


@contextlib.contextmanager
def _created(spec: RegionSpec, backend: Backend) -> Iterator[Region]:
    """The region, whose name is removed when the block is left, for whatever reason."""
    created = Region.create(
        spec.name,
        mappings=spec.mappings,
        window=spec.window_bytes,
        address=spec.address,
        mode=0o600,
        overcommit=spec.overcommit,
        backend=backend,
    )
    try:
        yield created
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(FileNotFoundError):
            created.unlink()
        created.close()


def _clear_stale(name: str, backend: Backend, replace_stale: bool) -> None:
    """Handle an existing name: it has no owner, because this process holds the lock."""
    if name not in backend.names():
        return
    if roots.attachable(backend.root, name):
        raise Conflict(
            f"{backend.path(name)} is the region of a process that lives, which is not an mshare owner;"
            " choose another name, or end that process first"
        )
    if not replace_stale:
        raise Conflict(
            f"{backend.path(name)} exists and has no running owner: it was left behind by an owner that"
            " was killed, or made by another program; run `mshare rm` on it, or start the owner with"
            " --replace-stale"
        )
    backend.unlink(name)


def _resist_oom() -> int:
    """Lower this process's OOM score if that is allowed; returns the current score."""
    path = "/proc/self/oom_score_adj"
    with contextlib.suppress(PermissionError), open(path, "w", encoding="ascii") as file:
        file.write(str(OOM_SCORE_ADJUST))
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _fill(spec: RegionSpec, stat: RegionStat, backend: Backend, status: _Status) -> None:
    """Prefault and write the pattern, in a child, so that a touch that nothing answers ends no owner."""
    # An owner lives long, and most fill nothing.
    from .filling import Fault, Filler, Place, ranges

    def require(fault: Fault | None) -> None:
        if fault is not None:
            raise MshareError(fault.sentence(spec.name))

    filler = Filler(Place(spec.name, backend, stat.window_bytes, stat.address))
    status.now = replace(status.now, filler_reason=filler.why_python)
    if spec.prefault:
        # Every page is touched: asking the kernel to do it (madvise, mmap) makes it warn.
        whole = list(ranges(spec.mappings, spec.mapped_bytes))
        status.progress(0, spec.mapped_bytes)
        require(filler.touch_pages(whole, BASE_PAGE_BYTES, status.seldom))
        status.progress(spec.mapped_bytes, spec.mapped_bytes)
    if spec.pattern:
        pattern = _pattern(spec, backend)
        require(filler.write_pattern(pattern))
        status.now = replace(status.now, pattern=pattern)


def _pattern(spec: RegionSpec, backend: Backend) -> Pattern:
    """A pattern over the first anonymous mapping, as much as fits the host's memory."""
    first = next((mapping for mapping in spec.mappings if mapping.kind == "anonymous"), None)
    if first is None:
        raise InvalidRequest(f"region {spec.name} has no anonymous mapping that could hold a pattern")
    free_bytes = procfs.meminfo_bytes().get("MemAvailable", GIB)
    if spec.memory_max_bytes is not None:
        free_bytes = min(free_bytes, spec.memory_max_bytes)
    room_bytes = roots.free_bytes(backend.root)
    budget_bytes = min(free_bytes // _PATTERN_SHARE, free_bytes if room_bytes is None else room_bytes) // 2
    span_bytes = min(first.size_bytes, span_for_budget(budget_bytes))
    if span_bytes <= 0:
        raise MshareError(
            f"a pattern in region {spec.name} needs at least {format_size(page_tables(1).total_bytes)} of"
            f" free memory for each 2 MiB and {format_size(budget_bytes)} may be used; free some memory,"
            " or turn pattern off"
        )
    # Only one byte per page is written.
    return Pattern(random.randrange(1, 251), first.offset, span_bytes, STRIDE_BYTES)
