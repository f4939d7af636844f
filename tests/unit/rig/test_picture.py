# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the picture of the dashboard says; tests/fleet/test_prometheus.py draws it from a test host."""

from __future__ import annotations

import copy

import pytest

from checks import dashboard
from mshare.units import GIB, MIB
from rig import picture


def test_every_query_of_the_file_is_asked() -> None:
    found = picture.queries(dashboard.dashboard())
    assert [query.expression for query in found] == dashboard.queries()
    assert not any("$" in query.expression for query in found)
    kinds = {panel["id"]: panel["type"] for panel in dashboard.dashboard()["panels"]}
    assert {kinds[query.panel] for query in found if query.instant} == {"stat", "table"}


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"program": "postgres", "port": "5432", "data_directory": "/d"}, "a: postgres 5432 /d: room"),
        ({"program": "oracle", "sid": "ORCL"}, "a: oracle ORCL: room"),
        ({"program": "prometheus"}, "a: prometheus: room"),
    ],
)
def test_a_legend_has_the_labels_that_say_something(labels: dict[str, str], text: str) -> None:
    template = "{{instance}}: {{program}} {{port}}{{sid}} {{data_directory}} {{container}}: room"
    assert picture.legend(template, {"instance": "a", **labels}) == text


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("bytes", 3 * GIB, "3 GiB"),
        ("percentunit", 2.5, "250 %"),
        ("s", 0.0421, "42.1 ms"),
        ("s", 3.0, "3 s"),
        ("short", 50000, "50,000"),
    ],
)
def test_values_have_the_units_of_the_panel(unit: str, value: float, text: str) -> None:
    assert picture._value({"fieldConfig": {"defaults": {"unit": unit}}}, value) == text


def test_bytes_are_marked_at_round_binary_values() -> None:
    pytest.importorskip("matplotlib")
    panel = {"fieldConfig": {"defaults": {"unit": "bytes"}}}
    assert picture._ticks(panel, 4.2 * GIB) == [0, 2 * GIB, 4 * GIB]
    assert picture._ticks(panel, 900 * MIB)[1] % (50 * MIB) == 0


def test_a_change_of_what_is_shown_is_noticed() -> None:
    before = dashboard.dashboard()
    after = copy.deepcopy(before)
    assert picture.fingerprint(after) == picture.fingerprint(before)
    after["panels"][1]["title"] += "!"
    assert picture.fingerprint(after) != picture.fingerprint(before)
