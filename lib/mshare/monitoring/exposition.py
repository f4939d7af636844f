# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as text for the textfile collector of Prometheus's node exporter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..printable import printable
from . import metrics
from .figures import Figures
from .metrics import Family


@dataclass(frozen=True)
class ExporterFigures:
    """How the figures come to Prometheus."""

    interval_seconds: float = 0.0
    cpu_seconds: float = 0.0


def text(figures: Figures, exporter: ExporterFigures | None = None) -> str:
    """One gauge per figure, in bytes, seconds and ratios; what is not known is left out."""
    rows: tuple[tuple[Family, Sequence[object]], ...] = (
        (metrics.HOST, [figures.host]),
        (metrics.POOL, figures.pools),
        (metrics.INSTANCE, figures.instances),
        (metrics.REGION, figures.regions),
        (metrics.SURVEY, [figures.survey]),
        (metrics.EXPORTER, [] if exporter is None else [exporter]),
    )
    lines = (line for family, records in rows for line in _family(family, records))
    return "\n".join(lines) + "\n"


def _family(family: Family, records: Iterable[object]) -> Iterator[str]:
    for metric in family.metrics:
        name = family.name(metric)
        known = [each for each in records if getattr(each, metric.field) is not None]
        if known:
            yield f"# HELP {name} {metric.help}"
            yield f"# TYPE {name} gauge"
        for each in known:
            value = getattr(each, metric.field)
            labels = ((label, str(getattr(each, label))) for label in (*family.labels, *metric.labels))
            inside = ",".join(f'{label}="{_escape(content)}"' for label, content in labels)
            yield f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _escape(value: str) -> str:
    """As the format requires: a backslash before a line end, a quote and a backslash. Any other control
    character, and a byte that is not text, is escaped, as everywhere."""
    lines = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in value.split("\n"))
    return "\\n".join(lines)
