# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for people: the verdict first, then the table, then the details."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .. import texttable
from ..printable import printable
from ..texttable import WIDTH, Paint, wrapped
from ..units import counted, format_size
from .outlook import Outlook
from .plan import InstancePlan, Plan, Row

HEADS = ("Remedy", "After", "Saves", "% of RAM", "Restart", "Open", "Figures are")
RIGHT = HEADS[1:4]
DETAIL_HEADS = ("Remedy", "Window", "RAM", "Faults per client", "Reboot", "Reversible by")
DETAIL_RIGHT = DETAIL_HEADS[1:3]
_LABEL = 11
"""Columns before a field of the remedy."""
_PASTE_TITLES = (("sysctl", "Huge pages"), ("database", "Database"), ("inventory", "Inventory variables"))


def cells(row: Row) -> tuple[str, ...]:
    """A row, in the order of HEADS."""
    percent = row.saving_percent_of_memory
    return (
        row.remedy,
        format_size(row.after_bytes),
        format_size(row.saving_bytes),
        "-" if percent is None else f"{percent:.1f} %",
        row.restart,
        _open(row),
        row.confidence,
    )


def detail_cells(row: Row) -> tuple[str, ...]:
    """A row, in the order of DETAIL_HEADS."""
    waste = f" + {format_size(row.waste_bytes)} waste" if row.waste_bytes else ""
    return (
        row.remedy,
        format_size(row.window_bytes),
        format_size(row.memory_bytes - row.waste_bytes) + waste,
        _faults(row),
        row.reboot,
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


def verdict(name: str, outlook: Outlook, width: int = WIDTH, paint: Paint = texttable.plain) -> list[str]:
    """Whether memory suffices at the maximum: fine, at risk, or not."""
    if outlook.available_bytes is None:
        at_maximum = f"{format_size(outlook.at_maximum_bytes)} at the maximum ({outlook.at_maximum_kind})"
        return wrapped(
            f"{name}: page tables {at_maximum}. Whether they fit is not known without the RAM.", width, "  "
        )
    first, *others = wrapped(outlook.sentence, width, "  ")
    return [first.replace(outlook.words, paint(outlook.words, outlook.words), 1), *others]


def remedy(outlook: Outlook, width: int = WIDTH, paint: Paint = texttable.plain) -> Iterator[str]:
    """The one remedy to take: what it saves, costs and needs, and the command for it."""
    if outlook.remedy is None:
        return
    saves = f"{format_size(outlook.saving_bytes)} of page tables at the maximum ({outlook.saving_kind})"
    fields = (
        ("Optional" if outlook.optional else "Remedy", outlook.remedy),
        ("Saves", saves),
        ("Costs", outlook.costs),
        ("Needs", outlook.needs),
        ("Command", None if outlook.command else "more than one: see the lines to paste below"),
    )
    for head, text in fields:
        for number, line in enumerate(wrapped(text, width - _LABEL) if text else []):
            yield f"  {'' if number else head:<{_LABEL - 2}}{line}"
    if outlook.command:
        yield "  Command"
        yield from _command(printable(outlook.command), width)


def _command(command: str, width: int) -> Iterator[str]:
    """A command to copy: line breaks are escaped, so that the shell reads the next line too."""
    if len(command) + 4 <= width:
        yield f"    {command}"
        return
    first, *options = command.split(" -e ")
    parts = [first, *(f"-e {option}" for option in options)]
    for number, part in enumerate(parts):
        indent = "    " if number == 0 else "      "
        yield f"{indent}{part}" + (" \\" if number < len(parts) - 1 else "")


def lines(
    plan: Plan,
    *,
    details: bool = False,
    formula: bool = False,
    width: int = WIDTH,
    paint: Paint = texttable.plain,
) -> list[str]:
    """The whole plan as text of at most `width` columns; what is to be copied is never broken."""
    shown: list[str] = []
    if plan.instances or plan.outlook.today_bytes:
        shown += [*verdict(plan.host.name or "the host", plan.outlook, width, paint), ""]
    for instance in plan.instances:
        shown += [
            *verdict(instance.name, instance.outlook, width, paint),
            *remedy(instance.outlook, width),
            "",
        ]
    for note in plan.notes:
        shown += wrapped(note, width, "  ")
    for instance in plan.instances:
        shown += [*([""] if shown[-1] else []), *_instance(instance, details, formula, width)]
    for name, pasted in paste_sections(plan):
        optional = ", optional" if plan.outlook.optional else ""
        shown += ["", f"{name}, to paste{optional}:", *map(printable, pasted)]
    return shown


def _instance(instance: InstancePlan, details: bool, formula: bool, width: int) -> Iterator[str]:
    # What can be done comes before what cannot.
    rows = sorted(instance.rows, key=lambda row: not row.usable)
    for text in title(instance):
        yield from wrapped(text, width, "  ")
    yield ""
    yield from texttable.table(HEADS, [cells(row) for row in rows], RIGHT, width)
    if details:
        yield ""
        yield from texttable.table(DETAIL_HEADS, [detail_cells(row) for row in rows], DETAIL_RIGHT, width)
        yield from _list("Not open, and why:", not_open(instance), width)
        yield from _list("What each needs:", takes(instance), width)
    if formula:
        yield from _list("How After is calculated:", formulas(instance), width)
    if details:
        yield ""
        for text in instance.verdict:
            yield from wrapped(text, width, "  ")


def _list(head: str, entries: Iterable[str], width: int) -> Iterator[str]:
    broken = [line for entry in entries for line in wrapped(f"  {entry}", width, "  ")]
    if broken:
        yield from ("", head, *broken)
