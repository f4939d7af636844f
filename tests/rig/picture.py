# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of the dashboard in docs/monitoring.md: each panel at its place, with what Prometheus answers.

No package registry has Grafana. So this reads the file that Grafana imports, and draws titles, units, legends
and values as that file has them; how a panel looks is its own. tests/fleet/test_prometheus.py draws it from a
test host, and `make picture` has that write the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mshare.units import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = "Drawn from the dashboard's panels and a test host's data; Grafana's look differs."
LIMIT_BYTES = 300 << 10
_COLUMNS = 24
_CELL = 0.54, 0.3
"""Inches across and down, of a cell of Grafana's grid."""
_GAP = 0.06
_PAPER, _FRAME, _INK, _FAINT = "#f4f5f5", "#d8dade", "#24292e", "#6e7178"
_COLOURS = (
    *("#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44", "#8f3bb8", "#00a5a8", "#a16a3c"),
    *("#8ab8ff", "#37872d", "#b877d9", "#c4162a"),
)
_LINE = 0.1
"""Inches from one line of a legend to the next."""
_WIDE = 0.062
"""Inches that a letter takes of a table's text, at most."""


@dataclass(frozen=True)
class Series:
    """What Prometheus answers to a query, of one set of labels."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """Seconds since 1970, and the value."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Series:
        """From a row of the answer to /api/v1/query or /api/v1/query_range."""
        pairs = row["values"] if "values" in row else [row["value"]]
        return cls(row["metric"], [(float(seconds), float(value)) for seconds, value in pairs])


@dataclass(frozen=True)
class Query:
    """A query of a panel, as Prometheus is asked it: about all hosts and data directories."""

    panel: int
    expression: str
    legend: str
    instant: bool


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Its rows and panels."""
    yield from dashboard["panels"]


def queries(dashboard: Mapping[str, Any]) -> list[Query]:
    found = []
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            expression = re.sub(r"\$(?:host|data_directory)\b", ".*", target["expr"])
            instant = target.get("instant", False) or panel["type"] == "stat"
            found.append(Query(panel["id"], expression, target["legendFormat"], instant))
    return found


def fingerprint(dashboard: Mapping[str, Any]) -> str:
    """Of all that the picture shows of the dashboard's file."""
    kept = ("type", "title", "gridPos", "fieldConfig", "targets")
    shown = [{key: panel.get(key) for key in kept} for panel in panels(dashboard)]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def draw(dashboard: Mapping[str, Any], answers: Mapping[Query, Sequence[Series]], path: Path) -> None:
    """Write the picture (SVG). `answers` has every one of `queries`."""
    import matplotlib as mpl

    settings = {
        # Text stays text: sharp, small, and found by a search.
        "svg.fonttype": "none",
        # The same answers give the same file.
        "svg.hashsalt": "mshare",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 7,
        "text.color": _INK,
        "axes.edgecolor": _FRAME,
        "axes.labelcolor": _INK,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
    }
    with mpl.rc_context(settings):
        figure = _figure(dashboard, answers)
        metadata = {"Title": dashboard["title"], "Description": fingerprint(dashboard), "Date": None}
        figure.savefig(path, format="svg", metadata=metadata)


def _figure(dashboard: Mapping[str, Any], answers: Mapping[Query, Sequence[Series]]) -> Figure:
    from matplotlib.figure import Figure

    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels(dashboard)) + 2
    width, height = _COLUMNS * _CELL[0], rows * _CELL[1]
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    asked = queries(dashboard)
    figure.text(0.006, 1 - 0.9 / rows, dashboard["title"], fontsize=12, weight="bold", va="center")
    figure.text(0.994, 1 - 0.9 / rows, NOTE, color=_FAINT, ha="right", va="center")
    for panel in panels(dashboard):
        place = panel["gridPos"]
        box = (
            place["x"] / _COLUMNS + _GAP / width,
            1 - (place["y"] + place["h"] + 1.5) / rows + _GAP / height,
            place["w"] / _COLUMNS - 2 * _GAP / width,
            place["h"] / rows - 2 * _GAP / height,
        )
        if panel["type"] == "row":
            figure.text(box[0], box[1] + box[3] / 2, panel["title"], fontsize=9, weight="bold", va="center")
            continue
        frame = figure.add_axes(box, facecolor="white", xticks=[], yticks=[])
        frame.set_gid(f"panel-{panel['id']}")
        own = [(query, answers[query]) for query in asked if query.panel == panel["id"]]
        _DRAWN[panel["type"]](frame, panel, own)
    return figure


_Own = Sequence[tuple[Query, Sequence[Series]]]


def _inches(frame: Axes) -> tuple[float, float]:
    box = frame.get_position()
    width, height = frame.figure.get_size_inches()
    return box.width * width, box.height * height


def _title(frame: Axes, panel: Mapping[str, Any]) -> float:
    """Write the title; the part of the panel's height that is left below it."""
    height = _inches(frame)[1]
    frame.text(0.07 / _inches(frame)[0], 1 - 0.11 / height, panel["title"], weight="bold", va="center")
    return 1 - 0.24 / height


def _value(panel: Mapping[str, Any], value: float) -> str:
    return _UNITS[panel["fieldConfig"]["defaults"]["unit"]](value)


def _short(value: float) -> str:
    return f"{value:,.6g}"


_UNITS: dict[str, Callable[[float], str]] = {
    "bytes": lambda value: format_size(int(value)),
    "percentunit": lambda value: f"{100 * value:,.3g} %",
    "s": lambda value: f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms",
    "short": _short,
}
"""Grafana's units, as far as the dashboard has them."""


def _stat(frame: Axes, panel: Mapping[str, Any], own: _Own) -> None:
    middle = _title(frame, panel) / 2
    ((__, series),) = own
    text = _value(panel, series[0].points[-1][1]) if series else "No data"
    frame.text(0.5, middle, text, fontsize=15, color=_COLOURS[2], ha="center", va="center")


def legend(template: str, labels: Mapping[str, str]) -> str:
    """A legend as Grafana makes it of the labels, without spaces of labels that say nothing."""
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)
    return re.sub(r" +(?=:|$)", "", re.sub(r" {2,}", " ", text))


def _lines(frame: Axes, panel: Mapping[str, Any], own: _Own) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator

    top = _title(frame, panel)
    every = [(query, series) for query, answer in own for series in answer]
    width, height = _inches(frame)
    foot = (_LINE * len(every) + 0.32) / height
    plot = frame.inset_axes((0.72 / width, foot, 1 - 0.85 / width, top - foot), facecolor="none")
    for number, (query, series) in enumerate(every):
        seconds, values = zip(*series.points)
        colour = _COLOURS[number % len(_COLOURS)]
        plot.plot(seconds, values, color=colour, linewidth=1.1)
        up = (_LINE * (len(every) - number) - 0.02) / height
        frame.plot([0.1 / width, 0.25 / width], [up, up], color=colour, linewidth=1.6)
        frame.text(0.31 / width, up, legend(query.legend, series.labels), fontsize=6, va="center")
    frame.set(xlim=(0, 1), ylim=(0, 1))
    nothing = not any(value for __, series in every for ___, value in series.points)
    highest = 1 if nothing else plot.get_ylim()[1]
    plot.set_ylim(0, highest)
    plot.yaxis.set_major_locator(FixedLocator(_ticks(panel, plot.get_ylim()[1])))
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, __: _value(panel, value)))
    begin, end = plot.get_xlim()
    plot.xaxis.set_major_locator(MultipleLocator(60 * math.ceil((end - begin) / 300)))
    plot.xaxis.set_major_formatter(
        FuncFormatter(lambda value, __: time.strftime("%H:%M", time.gmtime(value)))
    )
    plot.tick_params(length=0, labelsize=6.2)
    plot.grid(color=_FRAME, linewidth=0.5)
    for side in plot.spines.values():
        side.set_visible(False)


def _ticks(panel: Mapping[str, Any], highest: float) -> list[float]:
    """Round values up to the highest: of bytes, in the binary unit that they are shown in."""
    from matplotlib.ticker import MaxNLocator

    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale = 1024.0 ** int(math.log(max(highest, 1), 1024)) if unit == "bytes" else 1.0
    locator = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=unit == "short")
    return [value * scale for value in locator.tick_values(0, highest / scale) if value * scale <= highest]


def _table(frame: Axes, panel: Mapping[str, Any], own: _Own) -> None:
    top = _title(frame, panel)
    ((__, series),) = own
    names = sorted({name for each in series for name, value in each.labels.items() if value})
    rows = [
        [time.strftime("%H:%M:%S", time.gmtime(each.points[-1][0]))]
        + [each.labels.get(name, "") for name in names]
        + [_value(panel, each.points[-1][1])]
        for each in series
    ]
    columns = ["Time", *names, "Value"]
    width, height = _inches(frame)
    letters = [max(map(len, column)) + 2 for column in zip(columns, *rows)]
    room = int((width - 0.14) / _WIDE)
    fair = next(
        (most for most in range(max(letters), 0, -1) if sum(min(n, most) for n in letters) <= room), 1
    )
    for number, row in enumerate([columns, *rows]):
        left = 0.07
        for cell, wanted in zip(row, letters):
            most = min(wanted, fair)
            text = cell if len(cell) < most else cell[: most - 2] + "…"
            weight = "bold" if number == 0 else "normal"
            down = top - (0.12 + 0.17 * number) / height
            frame.text(left / width, down, text, fontsize=6.2, weight=weight, va="center")
            left += most * _WIDE
    frame.set(xlim=(0, 1), ylim=(0, 1))


_DRAWN: dict[str, Callable[[Axes, Mapping[str, Any], _Own], None]] = {
    "stat": _stat,
    "timeseries": _lines,
    "table": _table,
}
