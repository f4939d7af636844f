# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard for Grafana, from a table of its panels.

`python -m checks.dashboard --write` writes roles/alerts/files/mshare.dashboard.json, for the role and for
import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from checks.layout import ROOT

SHIPPED = ROOT / "roles" / "alerts" / "files" / "mshare.dashboard.json"
_SCHEMA_VERSION = 39
"""Of Grafana 10.4: it and later versions import the file."""
_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HOST = '{instance=~"$host"}'
_SERVER = '{instance=~"$host",data_directory=~"$data_directory"}'
_SERVER_LEGEND = "{{instance}}: {{program}} {{port}}{{sid}} {{data_directory}} {{container}}"


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel of one of Grafana's own kinds."""

    title: str
    kind: str
    queries: tuple[Query, ...]
    unit: str = "bytes"
    width: int = 8
    height: int = 8
    description: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def _stat(title: str, expression: str, unit: str, description: str) -> Panel:
    return Panel(title, "stat", (Query(expression),), unit, 4, 4, description)


ROWS = (
    Row(
        "Fleet",
        (
            _stat("Hosts", "count(mshare_host_memory_bytes)", "short", "Hosts that have figures."),
            _stat(
                "Page tables",
                "sum(mshare_host_page_tables_bytes)",
                "bytes",
                "Of all hosts, measured (PageTables).",
            ),
            _stat(
                "Page tables at the maximum",
                "sum(mshare_host_page_tables_maximum_bytes)",
                "bytes",
                "If every instance had as many processes as it is configured for: projected.",
            ),
            _stat(
                "Hosts that will run out",
                "sum(mshare_host_will_run_out)",
                "short",
                "Hosts without memory for the page tables of their configured maximum.",
            ),
            _stat(
                "Open remedies",
                "sum(mshare_instance_remedy_open)",
                "short",
                "Instances for which mshare plan recommends something.",
            ),
            _stat(
                "They would save",
                "sum(mshare_instance_remedy_saving_bytes)",
                "bytes",
                "Page tables at the maximum that the recommended remedies save: projected.",
            ),
            Panel(
                "Share of RAM in page tables, the 20 highest",
                "timeseries",
                (Query("topk(20, mshare_host_page_tables_ratio)", "{{instance}}"),),
                "percentunit",
                12,
            ),
            Panel(
                "Growth up to the maximum, as a share of the memory that is available, the 20 highest",
                "timeseries",
                (
                    Query(
                        "topk(20, mshare:host_page_tables_growth:bytes / mshare_host_memory_available_bytes)",
                        "{{instance}}",
                    ),
                ),
                "percentunit",
                12,
                description="Above 100 %, memory runs out before the instances are at their maximum.",
            ),
            Panel(
                "Alerts",
                "table",
                (Query('ALERTS{alertname=~"Mshare.*",alertstate="firing"}'),),
                "short",
                24,
            ),
        ),
    ),
    Row(
        "Host",
        (
            Panel(
                "Page tables and memory",
                "timeseries",
                (
                    Query(f"mshare_host_page_tables_bytes{_HOST}", "{{instance}}: page tables"),
                    Query(f"mshare_host_page_tables_maximum_bytes{_HOST}", "{{instance}}: at the maximum"),
                    Query(f"mshare_host_memory_available_bytes{_HOST}", "{{instance}}: memory available"),
                ),
                width=12,
            ),
            Panel(
                "Who has the page tables",
                "timeseries",
                (
                    Query(f"mshare_instance_page_tables_bytes{_HOST}", _SERVER_LEGEND),
                    Query(f"mshare_host_others_page_tables_bytes{_HOST}", "{{instance}}: all others"),
                ),
                width=12,
            ),
            Panel(
                "Huge pages",
                "timeseries",
                (
                    Query(f"mshare_huge_page_pool_size_bytes{_HOST}", "{{instance}} {{page_size}}: pool"),
                    Query(
                        f"mshare_huge_page_pool_available_bytes{_HOST}",
                        "{{instance}} {{page_size}}: available",
                    ),
                    Query(f"mshare_huge_page_pool_wanted_bytes{_HOST}", "{{instance}} {{page_size}}: wanted"),
                ),
            ),
            Panel(
                "Regions: clients",
                "timeseries",
                (
                    Query(f"mshare_region_clients_attached{_HOST}", "{{instance}} {{region}}: attached"),
                    Query(f"mshare_region_clients_dead{_HOST}", "{{instance}} {{region}}: dead"),
                ),
                "short",
            ),
            Panel(
                "Age of the survey",
                "timeseries",
                (
                    Query(f"mshare:survey_age:seconds{_HOST}", "{{instance}}: age"),
                    Query(f"mshare_survey_duration_seconds{_HOST}", "{{instance}}: duration"),
                ),
                "s",
            ),
        ),
    ),
    Row(
        "Instance",
        (
            Panel(
                "Page tables, and what they can grow into",
                "timeseries",
                (
                    Query(f"mshare_instance_page_tables_bytes{_SERVER}", f"{_SERVER_LEGEND}: page tables"),
                    Query(
                        f"mshare_instance_page_tables_maximum_bytes{_SERVER}",
                        f"{_SERVER_LEGEND}: at the maximum",
                    ),
                    Query(f"mshare_instance_page_tables_room_bytes{_SERVER}", f"{_SERVER_LEGEND}: room"),
                ),
            ),
            Panel(
                "Processes",
                "timeseries",
                (
                    Query(f"mshare_instance_processes{_SERVER}", f"{_SERVER_LEGEND}: processes"),
                    Query(f"mshare_instance_processes_maximum{_SERVER}", f"{_SERVER_LEGEND}: configured"),
                ),
                "short",
            ),
            Panel(
                "Shared memory",
                "timeseries",
                (
                    Query(f"mshare_instance_shared_memory_bytes{_SERVER}", f"{_SERVER_LEGEND}: all"),
                    Query(
                        f"mshare_instance_shared_memory_huge_bytes{_SERVER}",
                        f"{_SERVER_LEGEND}: in huge pages",
                    ),
                ),
            ),
            Panel(
                "State, 1 for yes",
                "timeseries",
                (
                    Query(f"mshare_instance_huge_pages{_SERVER}", f"{_SERVER_LEGEND}: in huge pages"),
                    Query(f"mshare_instance_huge_pages_fallback{_SERVER}", f"{_SERVER_LEGEND}: fell back"),
                    Query(f"mshare_instance_preload_lost{_SERVER}", f"{_SERVER_LEGEND}: preload lost"),
                    Query(f"mshare_instance_will_run_out{_SERVER}", f"{_SERVER_LEGEND}: will run out"),
                ),
                "short",
                12,
            ),
            Panel(
                "Recommended remedies",
                "table",
                (Query(f"mshare_instance_remedy_open{_SERVER}"),),
                "short",
                12,
                description="1 where the plan recommends the remedy, 0 where there is nothing to do.",
            ),
        ),
    ),
)


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    chosen = (
        ("host", "Host", "label_values(mshare_host_memory_bytes, instance)"),
        (
            "data_directory",
            "Data directory",
            'label_values(mshare_instance_page_tables_bytes{instance=~"$host"}, data_directory)',
        ),
    )
    queries = [
        {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": name},
            # A new host is there without a reload of the page.
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            # What has no data directory is among all.
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        for name, label, query in chosen
    ]
    return [source, *queries]


def _targets(panel: Panel) -> list[dict[str, Any]]:
    table = {"instant": True, "range": False, "format": "table"} if panel.kind == "table" else {}
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            **table,
        }
        for number, query in enumerate(panel.queries)
    ]


def _panel(panel: Panel, place: dict[str, int], number: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "table": {"showHeader": True},
    }[panel.kind]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": _targets(panel),
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Rows one below the other; in a row, panels from left to right."""
    number, top = 0, 0
    for row in ROWS:
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                left, top, height = 0, top + height, 0
            number += 1
            yield _panel(panel, {"x": left, "y": top, "w": panel.width, "h": panel.height}, number)
            left, height = left + panel.width, max(height, panel.height)
        top += height


def dashboard() -> dict[str, Any]:
    return {
        "uid": "dbmem-mshare",
        "title": "Page tables",
        "description": "What page tables cost, by fleet, host and instance (collection dbmem.mshare).",
        "tags": ["memory", "databases"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {
                "title": "What the alerts mean",
                "type": "link",
                "icon": "doc",
                "url": "https://github.com/dbmem/mshare/blob/main/docs/alerts.md",
                "targetBlank": True,
                "asDropdown": False,
                "includeVars": False,
                "keepTime": False,
                "tags": [],
                "tooltip": "",
            }
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def queries() -> list[str]:
    """Every query of the file that is shipped, for all hosts and instances."""
    panels = json.loads(SHIPPED.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [expression.replace("$host", ".*").replace("$data_directory", ".*") for expression in expressions]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: make docs")
    SHIPPED.write_text(text())
