# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Oracle instances: what their administrator has to set, and whether it has taken effect.

Nothing here runs a statement: these are lines to review. Whether the SGA is in huge pages is read from the
processes' maps, after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..host import accounts, procfs
from ..host.processes import Process
from ..survey.record import InstanceRecord, Survey
from ..units import MIB, format_size
from .need import Need, memory_target, need_of, oracle_bytes

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
    reason: str


def facts(survey: Survey) -> tuple[OracleFacts, ...]:
    """Of every Oracle instance of a survey."""
    default_bytes = survey.host.huge_page_default_bytes or 2 * MIB
    return tuple(
        _facts(instance, default_bytes) for instance in survey.instances if instance.kind == "oracle"
    )


def _facts(instance: InstanceRecord, page_bytes: int) -> OracleFacts:
    need = need_of(instance, page_bytes)
    segments = [
        segment for segment in instance.segments if segment.kind in _SGA_KINDS and not segment.short_lived
    ]
    total_bytes = sum(segment.size_bytes for segment in segments)
    huge_bytes = sum(segment.size_bytes for segment in segments if segment.kind == "hugetlb")
    process = _process(min(instance.pids))
    user = None if process is None else accounts.user(process.uid)
    done = total_bytes > 0 and huge_bytes == total_bytes
    return OracleFacts(
        name=instance.name,
        sid=instance.sid,
        user=user,
        settings=dict(instance.settings),
        pages=need.pages,
        sql=() if done and _is_only(instance) else tuple(_sql(instance, need, page_bytes)),
        limits=tuple(_limits(process, user, need, page_bytes)),
        done=done,
        reason=f"{format_size(huge_bytes)} of its {format_size(total_bytes)} of shared memory are in huge"
        " pages (measured)",
    )


def _process(pid: int) -> Process | None:
    status = procfs.read(f"/proc/{pid}/status")
    return None if status is None else Process(pid, status.encode("utf-8", "surrogateescape"), 0)


def _is_only(instance: InstanceRecord) -> bool:
    return (instance.huge_pages_requested or "").lower() == "only"


def _sql(instance: InstanceRecord, need: Need, page_bytes: int) -> list[str]:
    """The statements, each with SCOPE=SPFILE: they take effect at the next start."""
    lines = []
    if memory_target(instance) is not None:
        lines += [
            "ALTER SYSTEM SET memory_target=0 SCOPE=SPFILE;",
            "ALTER SYSTEM RESET memory_max_target SCOPE=SPFILE;",
        ]
        if not oracle_bytes(instance.settings.get("sga_target")):
            size_mib = need.pages * page_bytes // MIB
            lines += [
                "-- Without memory_target, SGA and PGA need a size each. This one is what the SGA has now.",
                f"ALTER SYSTEM SET sga_max_size={size_mib}M SCOPE=SPFILE;",
                f"ALTER SYSTEM SET sga_target={size_mib}M SCOPE=SPFILE;",
                "-- ALTER SYSTEM SET pga_aggregate_target=...  SCOPE=SPFILE;",
            ]
    if not _is_only(instance):
        # TRUE, the default, falls back to small pages, and tells so in the alert log only.
        lines.append("ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;")
    lines.append(
        f"-- Takes effect at the next restart, which needs {need.pages} free huge pages of"
        f" {format_size(page_bytes)}."
    )
    return lines


def _limits(process: Process | None, user: str | None, need: Need, page_bytes: int) -> list[str]:
    """Lines for limits.d where the instance may lock less memory than its SGA has."""
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
