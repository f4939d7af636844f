# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances as CSV, one line each; a host without any has a line too, and so has one that is missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Union

from ..printable import printable
from .fleet import Fleet, Host, Instance
from .remedies import REMEDIES, Saving

Value = Union[str, int, float, None]
_HOST = (
    "host",
    "status",
    "surveyed_at",
    "kernel",
    "memory_bytes",
    "host_page_tables_measured_bytes",
    "host_page_tables_percent_of_memory",
    "host_at_its_maximum",
)
_INSTANCE = (
    "instance",
    "kind",
    "segment",
    "segments_bytes",
    "processes",
    "processes_maximum",
    "page_tables_measured_bytes",
    "page_tables_segments_bytes",
    "page_tables_segments_kind",
    "page_tables_at_maximum_bytes",
    "page_tables_at_maximum_kind",
)
_SAVED = ("usable", "saved_bytes", "saved_kind", "saved_at_maximum_bytes", "saved_at_maximum_kind")
COLUMNS = (
    *_HOST,
    *_INSTANCE,
    *(f"{remedy.replace('-', '_')}_{what}" for remedy in REMEDIES for what in _SAVED),
    "remarks",
)


def table(fleet: Fleet) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in row] for row in _rows(fleet))
    return text.getvalue()


def _rows(fleet: Fleet) -> Iterator[list[Value]]:
    blank: list[Value] = [""] * (len(COLUMNS) - len(_HOST) - 1)
    for host in fleet.hosts:
        remarks = "; ".join(host.remarks)
        for instance in host.instances:
            yield [*_host(host), *_instance(instance), remarks]
        if not host.instances:
            yield [*_host(host), *blank, remarks]
    for missing in fleet.missing:
        yield [missing.host, "missing", *[""] * (len(_HOST) - 2), *blank, missing.reason]


def _host(host: Host) -> list[Value]:
    return [
        *(host.name, "partial" if host.remarks else "complete", host.surveyed_at, host.kernel),
        *(host.memory_bytes, host.page_tables_bytes, round(host.percent_of_memory, 2), host.state),
    ]


def _instance(instance: Instance) -> list[Value]:
    fields: list[Value] = [
        *(
            instance.name,
            instance.kind,
            instance.segment,
            instance.segments_bytes,
            instance.processes,
            instance.processes_maximum,
        ),
        *(instance.page_tables_bytes, instance.page_tables_segments_bytes, instance.figure_kind),
        *(instance.at_maximum_bytes, instance.at_maximum_kind),
    ]
    return fields + [value for saving in instance.savings for value in _saved(saving)]


def _saved(saving: Saving) -> tuple[Value, ...]:
    now, maximum = saving.now, saving.maximum
    usable = "yes" if saving.usable else "no"
    return (usable, now.saved_bytes, now.kind, maximum.saved_bytes, maximum.kind)


def _cell(value: Value) -> Value:
    """A spreadsheet would run a process's name that begins like a formula."""
    value = printable(value) if isinstance(value, str) else value
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value
