# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard: Grafana's own schema knows all of it, and Prometheus every query.

tests/fleet/test_prometheus.py asks a real Prometheus each query.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checks import dashboard
from checks.layout import ROOT
from checks.test_alerts import unknown_metrics
from mshare.monitoring import metrics
from rig import picture

PICTURE = ROOT / "docs" / "monitoring.svg"
OWN_KINDS = {"row", "stat", "table", "timeseries"}


def test_the_shipped_file_is_the_one_of_the_table() -> None:
    assert dashboard.SHIPPED.read_text() == dashboard.text(), "run `make docs`"


def lost(value: Any, read_back: Any, place: str = "") -> Iterator[str]:
    """What Grafana's types do not have, or have in another form."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in read_back:
                yield from lost(inner, read_back[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}"
    elif isinstance(value, list):
        if len(value) != len(read_back):
            yield place
        for number, pair in enumerate(zip(value, read_back)):
            yield from lost(*pair, f"{place}/{number}")
    elif value != read_back:
        yield place


def read_by_grafana(file: dict[str, Any]) -> Any:
    """A dashboard as the types that Grafana generates from its schema read and write it."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    return json.loads(JSONEncoder().encode(models.Dashboard.from_json(file)))


def test_grafanas_schema_has_all_that_the_dashboard_has() -> None:
    file = json.loads(dashboard.SHIPPED.read_text())
    assert list(lost(file, read_by_grafana(file))) == []


def test_what_the_schema_does_not_have_is_noticed() -> None:
    file = dashboard.dashboard()
    file["panels"][1]["gridPos"]["width"] = 4
    file["panels"][1]["options"]["reduceOption"] = {}
    assert list(lost(file, read_by_grafana(file))) == [
        "/panels/1/gridPos/width",
        "/panels/1/options/reduceOption",
    ]


def test_no_plugin_is_needed() -> None:
    panels = dashboard.dashboard()["panels"]
    assert {panel["type"] for panel in panels} == OWN_KINDS
    sources = [target["datasource"] for panel in panels for target in panel.get("targets", ())]
    assert {source["type"] for source in sources} == {"prometheus"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in dashboard.dashboard()["panels"]]
    assert len(numbers) == len(set(numbers))


def test_the_picture_is_of_this_dashboard() -> None:
    """Written by `make picture`, from a test host's data."""
    text = PICTURE.read_text()
    assert picture.fingerprint(dashboard.dashboard()) in text, "run `make picture`"
    assert picture.NOTE in text
    assert PICTURE.stat().st_size < picture.LIMIT_BYTES


def test_the_metrics_of_the_queries_exist() -> None:
    asked = [
        *dashboard.queries(),
        *(str(variable["query"]) for variable in dashboard.dashboard()["templating"]["list"]),
    ]
    assert {name for expression in asked for name in unknown_metrics(expression)} == set()
    assert any(name in asked[-1] for name in metrics.names())


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: Debian's package prometheus"
)
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(dashboard.queries())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
