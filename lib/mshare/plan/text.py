# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as people read it: the cells of its table, and its sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import texttable
from ..units import format_size
from .plan import InstancePlan, Plan, Row
from .remedies import counted

HEADS = (
    "Remedy",
    "Today",
    "At max",
    "After",
    "Saving",
    "% of RAM",
    "Window",
    "RAM",
    "Faults/client",
    "Restart",
    "Reboot",
    "Open",
    "Confidence",
    "Reversible by",
)
RIGHT = HEADS[1:9]
_PASTE_TITLES = (("sysctl", "Huge pages"), ("database", "Database"), ("inventory", "Inventory variables"))


def cells(row: Row) -> tuple[str, ...]:
    """A row, in the order of HEADS."""
    percent = row.saving_percent_of_memory
    waste = f" + {format_size(row.waste_bytes)} waste" if row.waste_bytes else ""
    return (
        row.remedy,
        "-" if row.today_bytes is None else format_size(row.today_bytes),
        format_size(row.at_maximum_bytes),
        format_size(row.after_bytes),
        format_size(row.saving_bytes),
        "-" if percent is None else f"{percent:.1f} %",
        format_size(row.window_bytes),
        format_size(row.memory_bytes - row.waste_bytes) + waste,
        _faults(row),
        row.restart,
        row.reboot,
        _open(row),
        row.confidence,
        row.reversible,
    )


def _faults(row: Row) -> str:
    once = f" + {faults(row.faults_once)} once" if row.faults_once else ""
    return faults(row.faults_per_client) + once


def _open(row: Row) -> str:
    if not row.usable:
        return "no"
    return "in part" if row.reasons else "yes"


def faults(count: int) -> str:
    """78643200 -> '78.6 million'."""
    return f"{count / 1e6:.1f} million" if count >= 1_000_000 else f"{count:,}"


def title(instance: InstancePlan) -> list[str]:
    """What the table is about, and how far its first columns can be trusted."""
    kind = "" if instance.kind == "wish" else f" ({instance.kind})"
    lines = [
        f"{instance.name}{kind}: {format_size(instance.size_bytes)} shared by"
        f" {counted(instance.clients_maximum, 'client', 'clients')} ({instance.maximum_source})"
    ]
    if instance.today_bytes is not None:
        lines.append(
            f"Page tables today: {format_size(instance.today_bytes)} in"
            f" {counted(instance.processes or 0, 'process', 'processes')}"
            f" ({instance.today_kind}); at max clients: {format_size(instance.at_maximum_bytes)}"
            f" ({instance.at_maximum_kind})"
        )
    leaf, every = format_size(instance.full_touch_leaf_bytes), format_size(instance.full_touch_bytes)
    lines.append(
        f"Page tables if every client touches all of it: {leaf} of leaf tables, {every} with the upper levels"
        " (modelled)"
    )
    return lines


def not_open(instance: InstancePlan) -> list[str]:
    """The rejected candidates with their reasons, those with the same ones together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for row in instance.rows:
        if row.reasons:
            together.setdefault(row.reasons, []).append(row.remedy)
    return [f"{', '.join(names)}: {'; '.join(reasons)}" for reasons, names in together.items()]


def takes(instance: InstancePlan) -> list[str]:
    """What has to be there, or done, for each remedy."""
    return [f"{row.remedy}: {row.takes}" for row in instance.rows if row.takes]


def formulas(instance: InstancePlan) -> list[str]:
    """How "After" came about, a line per remedy."""
    return [f"{row.remedy}: {row.formula}" for row in instance.rows]


def paste_sections(plan: Plan) -> list[tuple[str, Sequence[str]]]:
    """Titles and lines to paste; only those with lines."""
    sections = [(title, getattr(plan.paste, name)) for name, title in _PASTE_TITLES]
    return [(title, lines) for title, lines in sections if lines]


def lines(plan: Plan, formula: bool = False) -> list[str]:
    """The whole plan as aligned plain text."""
    said = list(plan.notes)
    for instance in plan.instances:
        said += [
            "",
            *title(instance),
            "",
            *texttable.table(HEADS, [cells(row) for row in instance.rows], RIGHT),
        ]
        said += _list("Not open, and why:", not_open(instance))
        said += _list("What each takes:", takes(instance))
        said += _list("How After is worked out:", formulas(instance) if formula else [])
        said += ["", *instance.verdict]
    for name, pasted in paste_sections(plan):
        said += ["", f"{name}, to paste:", *pasted]
    return said


def _list(head: str, entries: Iterable[str]) -> list[str]:
    entries = [f"  {entry}" for entry in entries]
    return ["", head, *entries] if entries else []
