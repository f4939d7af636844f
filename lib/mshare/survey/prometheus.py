# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A survey as text for the textfile collector of Prometheus's node exporter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, Union

from ..printable import printable
from .record import InstanceRecord, SegmentRecord, Survey

R = TypeVar("R")
_Number = Union[int, float, None]


@dataclass(frozen=True)
class _Metric(Generic[R]):
    """A gauge, and how its value comes out of a record."""

    name: str
    help: str
    value: Callable[[R], _Number]


_INSTANCE: tuple[_Metric[InstanceRecord], ...] = (
    _Metric(
        "mshare_survey_instance_page_tables_bytes",
        "Page tables of all processes of an instance (VmPTE).",
        lambda item: item.page_tables.sum_bytes,
    ),
    _Metric(
        "mshare_survey_instance_page_tables_maximum_bytes",
        "Page tables of the process of an instance that has the most.",
        lambda item: item.page_tables.maximum_bytes,
    ),
    _Metric(
        "mshare_survey_instance_page_tables_remainder_bytes",
        "Page tables of an instance that are not due to its shared segments.",
        lambda item: item.page_tables.remainder_bytes,
    ),
    _Metric("mshare_survey_instance_processes", "Processes of an instance.", lambda item: item.processes),
    _Metric(
        "mshare_survey_instance_processes_maximum",
        "How many processes an instance is configured for.",
        lambda item: item.processes_maximum.value if item.processes_maximum else None,
    ),
)
_SEGMENT: tuple[_Metric[SegmentRecord], ...] = (
    _Metric("mshare_survey_segment_size_bytes", "Size of a shared segment.", lambda item: item.size_bytes),
    _Metric(
        "mshare_survey_segment_page_tables_bytes",
        "Page tables that a shared segment needs in all processes.",
        lambda item: item.page_tables_bytes,
    ),
    _Metric(
        "mshare_survey_segment_huge_bytes",
        "How much of a shared segment is mapped by huge pages.",
        lambda item: item.huge_bytes,
    ),
)
_HOST: tuple[_Metric[Survey], ...] = (
    _Metric(
        "mshare_survey_host_page_tables_bytes",
        "Page tables of the host (PageTables).",
        lambda item: item.host.page_tables_bytes,
    ),
    _Metric(
        "mshare_survey_others_page_tables_bytes",
        "Page tables of processes that belong to no instance.",
        lambda item: item.others.page_tables_bytes,
    ),
    _Metric(
        "mshare_survey_duration_seconds",
        "How long the survey took.",
        lambda item: round(item.method.duration_ms / 1000, 4),
    ),
    _Metric("mshare_survey_complete", "1 when everything could be read.", lambda item: int(item.complete)),
    _Metric("mshare_survey_unread", "How many things could not be read.", lambda item: len(item.missing)),
)


def text(survey: Survey) -> str:
    """One gauge per figure, in bytes and seconds; what is not known is left out."""
    instances = [(_labels(instance), instance) for instance in survey.instances]
    inside = [
        ({**labels, "segment": segment.name, "segment_kind": segment.kind}, segment)
        for labels, instance in instances
        for segment in instance.segments
    ]
    no_labels: dict[str, str] = {}
    lines = [
        *_gauges(_HOST, [(no_labels, survey)]),
        *_gauges(_INSTANCE, instances),
        *_gauges(_SEGMENT, inside),
    ]
    return "\n".join(lines) + "\n"


def _labels(instance: InstanceRecord) -> dict[str, str]:
    return {"instance_name": instance.name, "kind": instance.kind}


def _gauges(metrics: Iterable[_Metric[R]], rows: list[tuple[dict[str, str], R]]) -> Iterator[str]:
    for metric in metrics:
        values = [(labels, metric.value(row)) for labels, row in rows]
        known = [(labels, value) for labels, value in values if value is not None]
        if not known:
            continue
        yield f"# HELP {metric.name} {metric.help}"
        yield f"# TYPE {metric.name} gauge"
        for labels, value in known:
            inside = ",".join(f'{name}="{_escape(label)}"' for name, label in labels.items())
            yield f"{metric.name}{{{inside}}} {value}" if inside else f"{metric.name} {value}"


def _escape(value: str) -> str:
    """As the format wants it: a line end, a quote and a backslash with a backslash before it. Any other
    control character, and a byte that is not text, is escaped, as everywhere."""
    lines = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in value.split("\n"))
    return "\\n".join(lines)
