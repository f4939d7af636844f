# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare survey: what page tables cost on this host today, per database."""

from __future__ import annotations

import time
from collections.abc import Iterable

import click

from ..errors import InvalidRequest
from ..plan import text
from ..plan.facts import from_survey
from ..plan.plan import plan
from ..survey import prometheus
from ..survey.record import InstanceRecord, SegmentRecord, Survey
from ..survey.survey import THRESHOLD_BYTES, changes, survey
from ..units import KIB, format_size, parse_size
from . import display
from .screen import Screen

_MISSING_SHOWN = 5


@click.command("survey")
@click.option("--exact", is_flag=True, help="Scan every process, not only samples of each group.")
@click.option("--watch", type=float, metavar="SECONDS", help="Repeat every SECONDS, and show what changed.")
@click.option("--prometheus", "as_metrics", is_flag=True, help="Text for node exporter's textfile collector.")
@click.option(
    "--threshold",
    metavar="SIZE",
    default=f"{THRESHOLD_BYTES // KIB}KiB",
    show_default=True,
    help="Look into processes with page tables of at least this.",
)
@click.pass_obj
def survey_command(
    screen: Screen, exact: bool, watch: float | None, as_metrics: bool, threshold: str
) -> None:
    """Show what page tables cost here today.

    Per database or other program with shared memory. Only reads; as an ordinary user the answer is
    partial and says so.
    """
    if watch is not None and watch <= 0:
        raise InvalidRequest(f"--watch {watch:g} is not an interval; write seconds, like 5")
    if as_metrics and screen.as_json:
        raise InvalidRequest("--prometheus and --json are two answers; ask for one of them")
    threshold_bytes = parse_size(threshold, "threshold")
    before = None
    while True:
        found = survey(exact, threshold_bytes)
        if as_metrics:
            click.echo(prometheus.text(found), nl=False)
        else:
            screen.answer(found.to_dict())
            _show(screen, found, before)
        if watch is None:
            return
        before = found
        time.sleep(watch)
        screen.clear()


def _show(screen: Screen, found: Survey, before: Survey | None) -> None:
    host = found.host
    if found.instances:
        outlook = plan(from_survey(found)).outlook
        screen.lines(text.verdict(host.name, outlook, screen.width, screen.paint))
    partial = "" if found.complete else ", partial"
    screen.say(
        f"Page tables of {host.name}: {format_size(host.page_tables_bytes)} (measured{partial}),"
        f" with {format_size(host.memory_available_bytes)} of"
        f" {format_size(host.memory_total_bytes)} available"
    )
    screen.say("")
    if found.instances:
        _instances(screen, found, before)
        screen.say("")
        _databases(screen, found.instances)
        _segments(screen, found.instances)
    else:
        screen.say("No process with page tables worth looking into has shared memory.")
    screen.say("")
    others = found.others
    screen.say(
        f"{others.processes:,} other processes: {format_size(others.page_tables_bytes)} of page tables"
    )
    _method(screen, found)


def _instances(screen: Screen, found: Survey, before: Survey | None) -> None:
    # As many as fit 80 columns; the JSON has the others.
    heads = ["Instance", "Processes", "Maximum", "Page tables", "Average", "Of host"]
    heads.append("Segments" if before is None else "Change")
    changed = [] if before is None else changes(before, found)
    change_of = {one.oldest_pid: one for one in changed if not one.gone}
    rows = []
    for one in found.instances:
        tables, maximum = one.page_tables, one.processes_maximum
        row = [
            one.name,
            f"{one.processes:,}",
            f"{maximum.value:,}" if maximum else "-",
            *map(display.size, (tables.sum_bytes, tables.average_bytes)),
            f"{one.share_of_host_percent:.1f} %",
        ]
        if before is None:
            row.append(_known(tables.segments_bytes))
        else:
            grown = change_of[min(one.pids)].page_tables_bytes
            row.append(f"{'+' if grown > 0 else ''}{format_size(grown)}")
        rows.append(row)
    screen.table(heads, rows, right=heads[1:])
    for change in changed:
        if change.gone:
            left = format_size(change.page_tables_bytes)
            screen.say(f"  {change.name} (process {change.oldest_pid}) is gone ({left})")


def _known(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else display.size(size_bytes)


def _databases(screen: Screen, instances: Iterable[InstanceRecord]) -> None:
    """Which server is meant, where a port or a name does not say it all."""
    said = [one for one in instances if one.data_directory or one.sid]
    for one in said:
        maximum = one.processes_maximum
        parts = (
            f"version {one.version}" if one.version else None,
            f"data directory {one.data_directory}" if one.data_directory else None,
            f"unit {one.unit}" if one.unit else None,
            f"maximum by {maximum.source}" if maximum else "maximum unknown",
        )
        screen.say(f"{one.name}: {', '.join(filter(None, parts))}")
    if said:
        screen.say("")


def _segments(screen: Screen, instances: Iterable[InstanceRecord]) -> None:
    rows = [
        (
            one.name,
            segment.kind,
            segment.name,
            format_size(segment.size_bytes),
            format_size(segment.page_bytes),
            format_size(segment.huge_bytes),
            f"preload {one.preload}" if one.preload else one.huge_pages_requested or "-",
            _placed(segment),
            f"{segment.processes:,}",
            _known(segment.page_tables_bytes),
        )
        for one in instances
        for segment in one.segments
    ]
    heads = ["Instance", "Kind", "Segment", "Size", "Pages", "Huge in use", "Huge asked for", "Begins at"]
    heads += ["Attached", "Page tables"]
    if rows:
        screen.table(heads, rows, right=("Size", "Pages", "Huge in use", "Attached", "Page tables"))


def _placed(segment: SegmentRecord) -> str:
    if segment.aligned_1gib:
        return "1 GiB"
    return "2 MiB" if segment.congruent_2mib else "4 KiB"


def _method(screen: Screen, found: Survey) -> None:
    method, missing = found.method, found.missing
    sampled = "samples of each group scanned, the segments' part of the others modelled from them"
    how = "every process scanned" if method.exact else sampled
    screen.say(f"Measured in {method.duration_ms:.0f} ms: VmPTE of every process, {how}")
    if found.vanished:
        screen.say(f"{found.vanished:,} processes ended meanwhile")
    if missing:
        screen.say(f"Partial: {len(missing):,} not read")
        for one in missing[:_MISSING_SHOWN]:
            who = f"process {one.pid}: " if one.pid is not None else ""
            screen.say(f"  {who}{one.what}: {one.reason}")
        if len(missing) > _MISSING_SHOWN:
            screen.say(f"  and {len(missing) - _MISSING_SHOWN:,} more; --json names them all")
