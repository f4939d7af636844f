# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How values are shown on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..backends.mapping import MappingEntry
from ..clients.status import KINDS
from ..converge.outcome import Outcome
from ..host import accounts
from ..info.facts import ClientsFacts, DirectoryFacts, MountFacts, RegionFacts
from ..kernel.generations import DESCRIBED
from ..units import format_milliseconds, format_size
from .screen import Screen


def size(size_bytes: int | None) -> str:
    """A size, or a dash if it is unknown."""
    return "-" if size_bytes is None else format_size(size_bytes)


def generation(identifier: str | None) -> str:
    """A generation, marked where there is no kernel of it."""
    if identifier in DESCRIBED:
        return f"{identifier} ({DESCRIBED[identifier].status})"
    return identifier or "-"


def access(facts: MountFacts | DirectoryFacts | RegionFacts) -> str:
    """Mode, user and group of a file, as ls shows them."""
    if facts.mode is None or facts.uid is None or facts.gid is None:
        return "-"
    return f"{facts.mode} {accounts.user(facts.uid)}:{accounts.group(facts.gid)}"


def sizes(facts: RegionFacts) -> list[tuple[str, str | None]]:
    """The two sizes of a region."""
    return [
        ("window", f"{size(facts.window_bytes)} of address space"),
        ("mapped", mapped(facts.mapped_bytes)),
    ]


def mapped(mapped_bytes: int | None) -> str:
    return "unknown: nobody wrote it down" if mapped_bytes is None else f"{size(mapped_bytes)} of memory"


def outcome(
    screen: Screen,
    done: Outcome[object],
    answer: dict[str, object],
    check: bool,
    changed: str,
    unchanged: str,
) -> bool:
    """Show what was done, or would be done; returns whether there is something new to describe."""
    screen.answer({**answer, "check": check})
    for warning in done.warnings:
        screen.warn(warning)
    if not done.changed:
        screen.sentence(unchanged)
    elif check:
        for action in done.actions:
            screen.sentence(f"Would {action}.")
    else:
        screen.sentence(changed)
    return not check


def reboot(boot: Mapping[str, object]) -> str:
    """Whether it comes back after a reboot, and why not."""
    if boot.get("enabled"):
        return "comes back after a reboot"
    reason = boot.get("reason")
    return "does not survive a reboot" + (f": {reason}" if reason else "")


def mappings(screen: Screen, inside: Iterable[MappingEntry]) -> None:
    """A table of what is mapped inside a region."""
    rows = [
        (
            f"{entry.offset:#x}",
            size(entry.size),
            entry.kind,
            entry.protection,
            entry.path or "",
        )
        for entry in inside
    ]
    screen.table(("Offset", "Size", "Kind", "Protection", "Path"), rows, right=("Offset", "Size"))


def clients(screen: Screen, facts: ClientsFacts) -> None:
    """What a launcher reports of its clients."""
    if facts.attached is None:
        screen.sentence(facts.errors[0])
        return
    touched = "nothing"
    if facts.span_bytes:
        touched = f"a page in every {size(facts.stride_bytes)} of {size(facts.span_bytes)}, each"
    alive = "" if facts.launcher_alive else " (gone)"
    screen.fields(
        [
            ("attached", f"{facts.attached} of {facts.requested}"),
            ("kind", KINDS[facts.client_kind] if facts.client_kind else None),
            ("touched", touched),
            ("attaching", _attaching(facts)),
            ("page tables", _page_tables(facts)),
            ("launcher", f"process {facts.launcher_pid}{alive}"),
        ]
    )
    if facts.client_kind_reason:
        screen.sentence(f"  {not_lean(facts)}")
    for dead in facts.dead:
        screen.sentence(f"  client {dead.number} (process {dead.pid}) {dead.reason}")
    for error in facts.errors:
        screen.sentence(f"  error: {error}")


def not_lean(facts: ClientsFacts) -> str:
    """That the clients are Python processes, of 3 MiB each, and why."""
    return f"the clients of region {facts.region} are not lean ones in C: {facts.client_kind_reason}"


def _attaching(facts: ClientsFacts) -> str | None:
    if facts.attach_ms_median is None or facts.attach_ms_max is None:
        return None
    median, slowest = map(format_milliseconds, (facts.attach_ms_median, facts.attach_ms_max))
    return f"{median} median, {slowest} slowest"


def _page_tables(facts: ClientsFacts) -> str | None:
    before, after = facts.vm_pte_before_bytes_sum, facts.vm_pte_after_bytes_sum
    if after is None:
        return None
    grown = f", {size(before)} of them before attaching" if before else ""
    return f"{size(after)} in all clients{grown} (measured: VmPTE)"
