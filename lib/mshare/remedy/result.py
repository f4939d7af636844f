# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was, or in a check run would be, done to a host: as records and as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .. import record
from ..texttable import WIDTH, wrapped
from ..units import counted, format_size


@dataclass(frozen=True)
class Measured:
    """Page tables of the same processes, or of as many connections that touched as much."""

    processes: int
    before_bytes: int
    after_bytes: int | None
    """None where a restart is still to come, or in a check run."""
    how: str


@dataclass(frozen=True)
class InstanceResult:
    """One instance."""

    name: str
    cluster: str | None
    remedy: str | None
    """None where nothing is done."""
    reason: str
    """Why this remedy, or why none."""
    changed: bool = False
    restarted: bool = False
    restart_required: bool = False
    restart_reason: str | None = None
    memory: str | None = None
    """Where its shared memory is, by its maps."""
    huge_bytes: int | None = None
    measured: tuple[Measured, ...] = ()
    service: bool = False
    """Whether a service collapses it again after each restart."""

    def lines(self) -> Iterator[str]:
        """The verdict first."""
        # With systemd the name has the unit, and with it the cluster.
        is_named = self.cluster is None or self.cluster in self.name
        name = self.name if is_named else f"{self.name} ({self.cluster})"
        if self.remedy is None:
            yield f"{name}: {self.reason}."
            return
        state = "changed" if self.changed else "as it was"
        if self.restart_required:
            state = f"to be restarted, because {self.restart_reason}"
        yield f"{name}: {self.remedy}, {state}."
        # The reason for a restart says where it is.
        if self.memory is not None and not self.restart_required:
            yield f"  {self.memory}"
        for each in self.measured:
            after = "" if each.after_bytes is None else f", {format_size(each.after_bytes)} after"
            of = counted(each.processes, "process", "processes")
            yield f"  page tables of {of}: {format_size(each.before_bytes)} before{after} ({each.how})"
        if self.service:
            yield "  a service collapses it again after each restart"


@dataclass(frozen=True)
class PoolResult:
    """The pool of huge pages."""

    page_bytes: int
    before: int
    pages: int
    """What it has now; in a check run what it would have."""

    def text(self, verb: str) -> str:
        """A clause, with "has" or another verb."""
        size, page = format_size(self.pages * self.page_bytes), format_size(self.page_bytes)
        pages = counted(self.pages, "page")
        return f"The pool of huge pages of {page} {verb} {pages} ({size}), {self.before:,} before"


@dataclass(frozen=True)
class Result:
    """The whole answer."""

    changed: bool
    check: bool
    actions: tuple[str, ...]
    before: dict[str, object]
    """What changes, by what it is called; of files (by path) the lines."""
    after: dict[str, object]
    instances: tuple[InstanceResult, ...]
    pool: PoolResult | None
    page_tables_before_bytes: int
    """PageTables of the host (/proc/meminfo), whoever has them."""
    page_tables_after_bytes: int | None
    needs_library: bool
    """Whether servers are started with the preloaded library."""
    needs_program: bool
    """Whether the installed command line is needed, for the service that collapses."""
    restart_required: bool
    recorded: bool
    """Whether something is written down on the host that can be undone."""
    plan: tuple[str, ...] = ()
    """What the plan says, line by line."""
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """For JSON and module results."""
        return {**record.to_fields(self), "summary": self.lines()}

    def lines(self) -> list[str]:
        """For people, the verdict first, in lines of a terminal's width."""
        lines = []
        if not self.changed:
            lines.append("Nothing to do.")
        elif self.check:
            lines.append(
                f"{counted(len(self.actions), 'step')} to do. This was a check: nothing is changed yet."
            )
            lines += [f"Would {action}." for action in self.actions]
        for instance in self.instances:
            lines += instance.lines()
        if self.pool is not None:
            verb = "would have" if self.check and self.changed else "has"
            lines.append(f"{self.pool.text(verb)}.")
        before = format_size(self.page_tables_before_bytes)
        if self.page_tables_after_bytes is not None and self.changed:
            lines.append(
                f"PageTables of the host: {before} before, {format_size(self.page_tables_after_bytes)} after"
                " (measured, all processes)."
            )
        if self.restart_required:
            lines.append("Servers are restarted only with restart_ok (-e mshare_remedy_restart_ok=true).")
        if self.check and self.changed:
            lines.append("Next: run it without --check. The whole plan: playbook dbmem.mshare.plan.")
        return [part for line in lines for part in wrapped(line, WIDTH, "  ")]
