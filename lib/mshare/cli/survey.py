# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mshare survey: what page tables cost on this host today, per database."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import click

from ..errors import InvalidRequest
from ..monitoring import exporter
from ..monitoring.figures import answer
from ..plan import text
from ..plan.facts import from_survey
from ..plan.plan import plan
from ..survey.record import InstanceRecord, SegmentRecord, Survey
from ..survey.survey import THRESHOLD_BYTES, Series, changes
from ..units import KIB, counted, format_size, parse_size
from . import display
from .screen import Screen

_MISSING_SHOWN = 5
_SEGMENTS_SHOWN = 4


@click.command("survey")
@click.option("--exact", is_flag=True, help="Scan every process, not only samples of each group.")
@click.option("--watch", type=float, metavar="SECONDS", help="Repeat every SECONDS, and show what changed.")
@click.option("--prometheus", "as_metrics", is_flag=True, help="Text for node exporter's textfile collector.")
@click.option(
    "--output",
    metavar="FILE",
    help="With --prometheus: replace FILE in one step instead of printing, for all users to read.",
)
@click.option(
    "--interval",
    type=float,
    metavar="SECONDS",
    help="With --prometheus: how often a timer repeats it, as a metric for alerts.",
)
@click.option(
    "--threshold",
    metavar="SIZE",
    default=f"{THRESHOLD_BYTES // KIB}KiB",
    show_default=True,
    help="Look into processes with page tables of at least this.",
)
@click.pass_obj
def survey_command(
    screen: Screen,
    exact: bool,
    watch: float | None,
    as_metrics: bool,
    output: str | None,
    interval: float | None,
    threshold: str,
) -> None:
    """Show what page tables cost here today.

    Per database or other program with shared memory. Only reads; as an ordinary user the answer is
    partial and says so.
    """
    if watch is not None and watch <= 0:
        raise InvalidRequest(f"--watch {watch:g} is not an interval; write seconds, like 5")
    if as_metrics and screen.as_json:
        raise InvalidRequest("--prometheus and --json cannot be combined; use only one of them")
    if not as_metrics:
        for name, value in (("output", output), ("interval", interval)):
            if value is not None:
                raise InvalidRequest(f"--{name} {value} was given without --prometheus; add it")
    threshold_bytes = parse_size(threshold, "threshold")
    if as_metrics:
        write = _print if output is None else partial(exporter.replace, output)
        with Series(exact, threshold_bytes) as series:
            exporter.run(series, write, watch, interval)
        return
    before = None
    with Series(exact, threshold_bytes) as series:
        while True:
            result = series.survey()
            if screen.as_json:
                screen.answer(answer(result).to_dict())
            _show(screen, result, before)
            if watch is None:
                return
            before = result
            time.sleep(watch)
            screen.clear()


def _print(text: str) -> None:
    click.echo(text, nl=False)


def _show(screen: Screen, survey: Survey, before: Survey | None) -> None:
    host = survey.host
    facts = from_survey(survey)
    if survey.instances:
        outlook = plan(facts).outlook
        screen.lines(text.verdict(host.name, outlook, screen.width, screen.paint))
    partial = "" if survey.complete else ", partial"
    screen.sentence(
        f"Page tables of {host.name}: {format_size(host.page_tables_bytes)} (measured{partial}),"
        f" with {format_size(host.memory_available_bytes)} of"
        f" {format_size(host.memory_total_bytes)} available"
    )
    screen.sentence("")
    if survey.instances:
        _instances(screen, survey, before)
        for sentence in filter(None, (instance.repeated for instance in facts.instances)):
            screen.sentence(sentence)
        screen.sentence("")
        _databases(screen, survey.instances)
        _segments(screen, survey.instances)
    else:
        screen.sentence("No process has both shared memory and page tables above the threshold.")
    screen.sentence("")
    others = survey.others
    screen.sentence(
        f"{counted(others.processes, 'other process', 'other processes')}:"
        f" {format_size(others.page_tables_bytes)} of page tables"
    )
    _method(screen, survey)


def _instances(screen: Screen, survey: Survey, before: Survey | None) -> None:
    # As many as fit 80 columns; the JSON has the others.
    heads = ["Instance", "Processes", "Maximum", "Page tables", "Average", "Of host"]
    heads.append("Segments" if before is None else "Change")
    changed = [] if before is None else changes(before, survey)
    change_of = {change.oldest_pid: change for change in changed if not change.gone}
    rows = []
    for instance in survey.instances:
        tables, maximum = instance.page_tables, instance.processes_maximum
        row = [
            instance.name,
            f"{instance.processes:,}",
            f"{maximum.value:,}" if maximum else "-",
            *map(display.size, (tables.sum_bytes, tables.average_bytes)),
            f"{instance.share_of_host_percent:.1f} %",
        ]
        if before is None:
            row.append(_known(tables.segments_bytes))
        else:
            grown = change_of[min(instance.pids)].page_tables_bytes
            row.append(f"{'+' if grown > 0 else ''}{format_size(grown)}")
        rows.append(row)
    screen.table(heads, rows, right=heads[1:])
    for change in changed:
        if change.gone:
            left = format_size(change.page_tables_bytes)
            # Where nothing else tells two of a name apart, the process is in their names.
            process = f" (process {change.oldest_pid})"
            screen.sentence(f"  {change.name.removesuffix(process)}{process} is gone ({left})")


def _known(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else display.size(size_bytes)


def _databases(screen: Screen, instances: Iterable[InstanceRecord]) -> None:
    """Which server is meant, where a port or a name is not enough."""
    databases = [instance for instance in instances if instance.data_directory or instance.sid]
    for instance in databases:
        maximum = instance.processes_maximum
        parts = (
            f"version {instance.version}" if instance.version else None,
            f"data directory {instance.data_directory}" if instance.data_directory else None,
            f"unit {instance.unit}" if instance.unit else None,
            f"maximum by {maximum.source}" if maximum else "maximum unknown",
        )
        screen.sentence(f"{instance.name}: {', '.join(filter(None, parts))}")
    if databases:
        screen.sentence("")


def _segments(screen: Screen, instances: Iterable[InstanceRecord]) -> None:
    rows = [
        row for instance in instances for alike in _alike(instance.segments) for row in _rows(instance, alike)
    ]
    heads = ["Instance", "Kind", "Segment", "Size", "Pages", "Huge in use", "Huge asked for", "Begins at"]
    heads += ["Attached", "Page tables"]
    if rows:
        screen.table(heads, rows, right=("Size", "Pages", "Huge in use", "Attached", "Page tables"))


_Row = tuple[str, ...]


def _alike(records: Iterable[SegmentRecord]) -> Iterable[list[SegmentRecord]]:
    """Segments by kind and size of pages: a program may have thousands, like Oracle with its granules."""
    same: dict[tuple[str, int], list[SegmentRecord]] = {}
    for segment in records:
        same.setdefault((segment.kind, segment.page_bytes), []).append(segment)
    return same.values()


def _rows(instance: InstanceRecord, records: Sequence[SegmentRecord]) -> Iterable[_Row]:
    """The largest segments each, and all the others of a kind in one row."""
    shown, rest = records[:_SEGMENTS_SHOWN], records[_SEGMENTS_SHOWN:]
    if len(rest) < 2:
        shown, rest = records, []
    for segment in shown:
        yield _row(instance, segment, segment.name)
    if rest:
        tables = [segment.page_tables_bytes for segment in rest]
        together = replace(
            rest[0],
            size_bytes=sum(segment.size_bytes for segment in rest),
            huge_bytes=sum(segment.huge_bytes for segment in rest),
            congruent_2mib=all(segment.congruent_2mib for segment in rest),
            aligned_1gib=all(segment.aligned_1gib for segment in rest),
            processes=max(segment.processes for segment in rest),
            page_tables_bytes=None if None in tables else sum(each or 0 for each in tables),
        )
        yield _row(instance, together, f"{len(rest):,} more (--json)")


def _row(instance: InstanceRecord, segment: SegmentRecord, name: str) -> _Row:
    return (
        instance.name,
        segment.kind,
        name,
        format_size(segment.size_bytes),
        format_size(segment.page_bytes),
        format_size(segment.huge_bytes),
        f"preload {instance.preload}" if instance.preload else instance.huge_pages_requested or "-",
        _placed(segment),
        f"{segment.processes:,}",
        _known(segment.page_tables_bytes),
    )


def _placed(segment: SegmentRecord) -> str:
    if segment.aligned_1gib:
        return "1 GiB"
    return "2 MiB" if segment.congruent_2mib else "4 KiB"


def _method(screen: Screen, survey: Survey) -> None:
    method, missing = survey.method, survey.missing
    sampled = "samples of each group scanned, the segments' part of the others modelled from them"
    how = "every process scanned" if method.exact else sampled
    screen.sentence(f"Measured in {method.duration_ms:.0f} ms: VmPTE of every process, {how}")
    if not survey.host.pagemap_scan:
        screen.sentence(
            "This kernel has no PAGEMAP_SCAN (Linux 6.7), so pagemap is read entry by entry where segments"
            " have data; transparent huge pages are not told from small ones"
        )
    if survey.vanished:
        screen.sentence(f"{counted(survey.vanished, 'process', 'processes')} ended meanwhile")
    if missing:
        screen.sentence(f"Partial: {len(missing):,} not read")
        for item in missing[:_MISSING_SHOWN]:
            who = f"process {item.pid}: " if item.pid is not None else ""
            screen.sentence(f"  {who}{item.what}: {item.reason}")
        if len(missing) > _MISSING_SHOWN:
            screen.sentence(f"  and {len(missing) - _MISSING_SHOWN:,} more; --json lists them all")
