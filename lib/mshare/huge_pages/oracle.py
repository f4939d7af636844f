# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Oracle instances: what their administrator has to set, and whether it has taken effect.

Nothing here runs a statement: these are lines to review. Whether the SGA is in huge pages is read from the
processes' maps, after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..host import accounts, procfs
from ..host.processes import Process
from ..printable import printable
from ..survey.record import InstanceRecord, Survey
from ..units import MIB, format_size
from .need import Need, is_grid, memory_target, need_of, oracle_bytes

_SGA_KINDS = ("sysv", "posix", "anonymous", "hugetlb", "memfd", "tmpfs")


@dataclass(frozen=True)
class OracleFacts:
    """An Oracle instance, as far as huge pages go."""

    name: str
    sid: str | None
    user: str | None
    settings: dict[str, str]
    pages: int
    """Huge pages of the default size that its SGA needs."""
    sql: tuple[str, ...]
    limits: tuple[str, ...]
    done: bool
    left_alone: bool
    """Whether it is one of Grid Infrastructure, for which nothing is to be set."""
    reason: str


@dataclass(frozen=True)
class _Room:
    """The pool, for all instances that are to be restarted."""

    available: int
    needed: int
    """What those need beyond what they have."""


def facts(survey: Survey, available_pages: int) -> tuple[OracleFacts, ...]:
    """Of every Oracle instance of a survey.

    `available_pages` are those of the default size that a new mapping can have, or could after a check run.
    """
    page_bytes = survey.host.huge_page_default_bytes or 2 * MIB
    instances = [instance for instance in survey.instances if instance.kind == "oracle"]
    waiting = [each for each in instances if not is_grid(each) and not _is_done(each, page_bytes)]
    needs = [need_of(instance, page_bytes) for instance in waiting]
    room = _Room(available_pages, sum(max(0, need.pages - need.held) for need in needs))
    return tuple(_facts(instance, page_bytes, room) for instance in instances)


def _facts(instance: InstanceRecord, page_bytes: int, room: _Room) -> OracleFacts:
    need = need_of(instance, page_bytes)
    process = _process(min(instance.pids))
    user = None if process is None else accounts.user(process.uid)
    grid, done = is_grid(instance), _is_done(instance, page_bytes)
    is_left = grid or (done and _is_only(instance))
    total_bytes, huge_bytes = _sizes_bytes(instance)
    reason = (
        f"{format_size(huge_bytes)} of its {format_size(total_bytes)} of shared memory are in huge pages"
        " (measured)"
    )
    if grid:
        reason += (
            "; it is an instance of Grid Infrastructure, for which Oracle recommends Automatic Memory"
            " Management, which has no huge pages"
        )
    return OracleFacts(
        name=instance.name,
        sid=instance.sid,
        user=user,
        settings=dict(instance.settings),
        pages=need.pages,
        sql=() if is_left else tuple(_sql(instance, need, page_bytes, room)),
        limits=() if is_left else tuple(_limits(process, user, need, page_bytes)),
        done=done,
        left_alone=grid,
        reason=reason,
    )


def _sizes_bytes(instance: InstanceRecord) -> tuple[int, int]:
    """Its shared memory, and how much of that is in huge pages."""
    segments = [
        segment for segment in instance.segments if segment.kind in _SGA_KINDS and not segment.short_lived
    ]
    huge = [segment.size_bytes for segment in segments if segment.kind == "hugetlb"]
    return sum(segment.size_bytes for segment in segments), sum(huge)


def _is_done(instance: InstanceRecord, page_bytes: int) -> bool:
    """Whether its SGA is in huge pages, but for the few small pages that Oracle has beside them."""
    total_bytes, huge_bytes = _sizes_bytes(instance)
    return huge_bytes > 0 and total_bytes - huge_bytes < page_bytes


def _process(pid: int) -> Process | None:
    status = procfs.read(f"/proc/{pid}/status")
    return None if status is None else Process(pid, status.encode("utf-8", "surrogateescape"), 0)


def _is_only(instance: InstanceRecord) -> bool:
    """Whether it does not start in small pages. AUTO_ONLY also enlarges the pool by itself."""
    return (instance.huge_pages_requested or "").lower() in ("only", "auto_only")


def _sql(instance: InstanceRecord, need: Need, page_bytes: int, room: _Room) -> Iterator[str]:
    """The statements, each with SCOPE=SPFILE: they take effect at the next start."""
    yield from _parameter_file(instance)
    yield from _no_automatic_memory(instance, need, page_bytes)
    requested = (instance.huge_pages_requested or "").lower()
    if not _is_only(instance):
        if requested == "auto":
            yield "-- AUTO has Oracle enlarge vm.nr_hugepages at its start. ONLY leaves the pool alone."
        elif requested != "false":
            yield "-- TRUE, the default, falls back to small pages, and only the alert log says so."
        yield "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;"
    yield (
        f"-- Takes effect at the next restart, which needs {need.pages} free huge pages of"
        f" {format_size(page_bytes)}."
    )
    missing = room.needed - room.available
    if missing > 0:
        yield (
            f"-- First reserve {missing} more: {room.available} are free, and the Oracle instances of this"
            f" host need {room.needed}. With ONLY, an instance does not start without them."
        )


def _parameter_file(instance: InstanceRecord) -> Iterator[str]:
    """What is to be known about where its parameters are."""
    spfile, is_read = instance.settings.get("spfile"), _is_read(instance)
    if not is_read:
        # Its user writes that name, and root's terminal shows it.
        where = f" ({printable(spfile)})" if spfile else ""
        yield f"-- Its parameter file{where} could not be read, so check them first:"
        yield "SHOW PARAMETER use_large_pages"
        yield "SHOW PARAMETER memory_"
        yield "-- Huge pages and memory_target exclude each other. If it is not 0, set it to 0 as well."
    elif spfile is None:
        yield f"-- It has no spfile: write the parameters into init{instance.sid}.ora instead (name=value)."


def _is_read(instance: InstanceRecord) -> bool:
    return instance.processes_maximum is not None or bool(set(instance.settings) - {"spfile"})


def _no_automatic_memory(instance: InstanceRecord, need: Need, page_bytes: int) -> Iterator[str]:
    """Turn off Automatic Memory Management, which the parameters ask for, or where those are unknown, the
    memory shows."""
    named = memory_target(instance)
    if named is None and (_is_read(instance) or not _is_in_files(instance)):
        return
    yield "ALTER SYSTEM SET memory_target=0 SCOPE=SPFILE;"
    if "memory_max_target" in instance.settings:
        # Of what is not in the spfile, RESET is an error (ORA-32010).
        yield "ALTER SYSTEM RESET memory_max_target SCOPE=SPFILE;"
    if not oracle_bytes(instance.settings.get("sga_target")):
        size_mib = need.pages * page_bytes // MIB
        yield "-- Without memory_target, SGA and PGA need a size each. This one is what the SGA has now."
        yield f"ALTER SYSTEM SET sga_max_size={size_mib}M SCOPE=SPFILE;"
        yield f"ALTER SYSTEM SET sga_target={size_mib}M SCOPE=SPFILE;"
    if not oracle_bytes(instance.settings.get("pga_aggregate_target")):
        yield "-- ALTER SYSTEM SET pga_aggregate_target=<size> SCOPE=SPFILE;"


def _is_in_files(instance: InstanceRecord) -> bool:
    """Whether its SGA is in files of /dev/shm, where Automatic Memory Management has it."""
    return any(segment.name.startswith("/dev/shm/ora_") for segment in instance.segments)


def _limits(process: Process | None, user: str | None, need: Need, page_bytes: int) -> list[str]:
    """Lines for limits.d, which count in KiB, where the instance may lock less memory than its SGA has."""
    allowed = None if process is None else _memlock(process.pid)
    if user is None or allowed == "unlimited":
        return []
    if allowed is not None and allowed.isdigit() and int(allowed) >= need.pages * page_bytes:
        return []
    return [f"{user} {kind} memlock unlimited" for kind in ("soft", "hard")]


def _memlock(pid: int) -> str | None:
    """The limit of a process, in bytes as the kernel writes it."""
    for line in procfs.lines(procfs.read(f"/proc/{pid}/limits")):
        if line.startswith("Max locked memory"):
            return line.split()[3]
    return None
