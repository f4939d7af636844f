# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The alerts: each fires, does not fire, and ends, by Prometheus's own promtool; each has a page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest

from checks import alerts
from checks.layout import ROOT, load_yaml
from mshare.cli import mshare
from mshare.monitoring import metrics

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: Debian's package prometheus"
)
PAGE = ROOT / "docs" / "alerts.md"
PAGE_URL = "https://github.com/dbmem/mshare/blob/main/docs/alerts.md"
HOST = 'job="node",instance="db1:9100"'
SERVER = (
    f'{HOST},kind="postgresql",program="postgres",data_directory="/data",sid="",unit="",container="",'
    'port="5432"'
)
OTHER = SERVER.replace("5432", "5433").replace("/data", "/other")
GIB = 1 << 30


@dataclass(frozen=True)
class Case:
    """Series at the intervals of their alert, and how many alerts fire at which minutes."""

    alert: str
    why: str
    series: Mapping[str, str]
    firing: Mapping[int, int]
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def minutes(self) -> int:
        """Between two values. Hours of each minute would take promtool seconds."""
        return 5 if self.alert == "MsharePageTablesGrow" else 1

    @property
    def name(self) -> str:
        return f"{self.alert}: {self.why}"


def fits(maximum: str, room: str, labels: str = SERVER) -> dict[str, str]:
    """An instance whose page tables take 10 GiB now."""
    return {
        f"mshare_instance_page_tables_bytes{{{labels}}}": f"{10 * GIB}x600",
        f"mshare_instance_page_tables_maximum_bytes{{{labels}}}": maximum,
        f"mshare_instance_page_tables_room_bytes{{{labels}}}": room,
    }


def host(maximum_gib: str, available_gib: int) -> dict[str, str]:
    """A host whose page tables take 20 GiB now."""
    return {
        f"mshare_host_page_tables_bytes{{{HOST}}}": f"{20 * GIB}x600",
        f"mshare_host_page_tables_maximum_bytes{{{HOST}}}": maximum_gib,
        f"mshare_host_memory_available_bytes{{{HOST}}}": f"{available_gib * GIB}x600",
    }


def growing(tables: str, available_gib: float = 10) -> dict[str, str]:
    """A host with 64 GiB of RAM, every 5 minutes."""
    return {
        f"mshare_host_page_tables_bytes{{{HOST}}}": tables,
        f"mshare_host_memory_available_bytes{{{HOST}}}": f"{int(available_gib * GIB)}x2000",
        f"mshare_host_memory_bytes{{{HOST}}}": f"{64 * GIB}x2000",
    }


def pool(free_gib: str, reserved_gib: int = 0, size_gib: int = 100) -> dict[str, str]:
    labels = f'{{{HOST},page_size="2MiB"}}'
    return {
        f"mshare_huge_page_pool_size_bytes{labels}": f"{size_gib * GIB}x600",
        f"mshare_huge_page_pool_free_bytes{labels}": free_gib,
        f"mshare_huge_page_pool_reserved_bytes{labels}": f"{reserved_gib * GIB}x600",
    }


def surveyed(timestamps: str, interval: int = 60, **series: str) -> dict[str, str]:
    return {
        f"mshare_survey_timestamp_seconds{{{HOST}}}": timestamps,
        f"mshare_exporter_interval_seconds{{{HOST}}}": f"{interval}x600",
        f"up{{{HOST}}}": "1x600",
        **{f"{name}{{{HOST}}}": values for name, values in series.items()},
    }


def of(gib: float, times: int) -> str:
    return f"{int(gib * GIB)}x{times}"


REGION = f'{{{HOST},root="/run/msharefs",region="sga"}}'
TEN = 50 * GIB // 1024
"""In 5 minutes: 10 MiB a minute are 14 GiB in 24 hours."""
CASES = (
    Case(
        "MshareInstanceWillNotFit",
        "90 GiB more in 80 GiB, until max_connections is lowered",
        fits(f"{of(100, 10)} {of(50, 20)}", of(80, 600)),
        {1: 0, 2: 1, 10: 1, 13: 0},
    ),
    Case("MshareInstanceWillNotFit", "90 GiB more in 91 GiB", fits(of(100, 600), of(91, 600)), {30: 0}),
    Case(
        "MshareInstanceWillNotFit",
        "the threshold is a variable",
        fits(of(100, 600), of(91, 600)),
        {30: 1},
        {"room_ratio": 0.5},
    ),
    Case(
        "MshareInstanceWillNotFit",
        "the time is a variable",
        fits(of(100, 600), of(80, 600)),
        {29: 0, 30: 1},
        {"room_for": "30m"},
    ),
    Case("MshareInstanceWillNotFit", "fewer than now at the maximum", fits(of(1, 600), of(0, 600)), {30: 0}),
    Case("MshareInstanceWillNotFit", "no room at all", fits(of(11, 600), of(0, 600)), {30: 1}),
    Case(
        "MshareInstanceWillNotFit",
        "each of two servers on one host for itself",
        {**fits(of(100, 600), of(80, 600)), **fits(of(100, 600), of(80, 600), OTHER)},
        {30: 2},
    ),
    Case(
        "MshareHostWillNotFit",
        "two that fit alone do not fit together, until one is smaller",
        {
            **host(f"{of(140, 10)} {of(90, 600)}", 100),
            **fits(of(70, 600), of(100, 600)),
            **fits(of(70, 600), of(100, 600), OTHER),
        },
        {1: 0, 2: 1, 10: 1, 13: 0},
    ),
    Case("MshareHostWillNotFit", "all fit", host(of(119, 600), 100), {30: 0}),
    Case(
        "MshareHostWillNotFit",
        "the threshold is a variable",
        host(of(119, 600), 100),
        {30: 1},
        {"room_ratio": 0.9},
    ),
    Case(
        "MshareHostWillNotFit",
        "one does not fit alone: its own alert is enough",
        {**host(of(140, 600), 100), **fits(of(120, 600), of(100, 600))},
        {30: 0},
    ),
    Case(
        "MsharePageTablesGrow",
        "10 MiB a minute where 10 GiB are left, from half the window on, until they stop",
        growing(f"{GIB}+{TEN}x80 {GIB + 80 * TEN}x80"),
        {180: 0, 190: 0, 200: 1, 400: 1, 500: 0},
    ),
    Case("MsharePageTablesGrow", "20 GiB are left", growing(f"{GIB}+{TEN}x160", 20), {400: 0}),
    Case(
        "MsharePageTablesGrow",
        "the hours are a variable",
        growing(f"{GIB}+{TEN}x100", 20),
        {400: 1},
        {"growth_hours": 72},
    ),
    Case("MsharePageTablesGrow", "flat", growing(f"{GIB}x160", 0.001), {400: 0, 800: 0}),
    Case(
        "MsharePageTablesGrow",
        "so little that it is noise",
        growing(f"{GIB}+{GIB // 400}x100", 0.001),
        {400: 0},
    ),
    Case(
        "MsharePageTablesGrow",
        "what is noise is a variable",
        growing(f"{GIB}+{GIB // 400}x100", 0.001),
        {400: 1},
        {"growth_floor_ratio": 0.001},
    ),
    Case("MsharePageTablesGrow", "a short series", growing(f"{GIB}+{10 * TEN}x34"), {170: 0}),
    Case(
        "MsharePageTablesGrow",
        "a shorter window needs a shorter series",
        growing(f"{GIB}+{10 * TEN}x34"),
        {60: 1},
        {"growth_window_minutes": 60},
    ),
    Case(
        "MsharePageTablesGrow",
        "a restart: from 8 GiB to nothing, and back within half an hour",
        growing(f"{8 * GIB}x80 0+{8 * GIB // 6}x6 {8 * GIB}x200"),
        dict.fromkeys(range(400, 1000, 10), 0),
    ),
    Case(
        "MsharePageTablesGrow",
        "warming up after the first start",
        growing(f"0+{8 * GIB // 6}x6 {8 * GIB}x200"),
        dict.fromkeys(range(0, 600, 10), 0),
    ),
    Case(
        "MshareHugePagesIdle",
        "95 of 100 GiB, until they are used",
        pool(f"{of(95, 30)} {of(10, 30)}"),
        {14: 0, 15: 1, 30: 1, 33: 0},
    ),
    Case("MshareHugePagesIdle", "half of it", pool(of(50, 600)), {30: 0}),
    Case(
        "MshareHugePagesIdle", "the threshold is a variable", pool(of(50, 600)), {30: 1}, {"idle_ratio": 0.4}
    ),
    Case("MshareHugePagesIdle", "promised to a server", pool(of(95, 600), reserved_gib=60), {30: 0}),
    Case("MshareHugePagesIdle", "no pool", pool(of(0, 600), size_gib=0), {30: 0}),
    Case(
        "MshareHugePagesFallback",
        "until a restart finds enough",
        {f"mshare_instance_huge_pages_fallback{{{SERVER}}}": "1x20 0x20"},
        {4: 0, 5: 1, 20: 1, 22: 0},
    ),
    Case(
        "MshareHugePagesFallback",
        "in huge pages",
        {f"mshare_instance_huge_pages_fallback{{{SERVER}}}": "0x20"},
        {15: 0},
    ),
    Case(
        "MshareHugePagesFallback",
        "the time is a variable",
        {f"mshare_instance_huge_pages_fallback{{{SERVER}}}": "1x20"},
        {1: 1},
        {"fallback_for": "0s"},
    ),
    Case(
        "MsharePreloadLost",
        "after a restart, until the next",
        {f"mshare_instance_preload_lost{{{SERVER}}}": "0x10 1x20 0x20"},
        {9: 0, 14: 0, 16: 1, 31: 1, 33: 0},
    ),
    Case(
        "MsharePreloadLost",
        "it has the library",
        {f"mshare_instance_preload_lost{{{SERVER}}}": "0x60"},
        {30: 0},
    ),
    Case(
        "MsharePreloadLost",
        "the time is a variable",
        {f"mshare_instance_preload_lost{{{SERVER}}}": "1x60"},
        {1: 1},
        {"preload_for": "1m"},
    ),
    Case(
        "MshareRegionWithoutOwner",
        "until the region is removed",
        {f"mshare_region_owner_alive{REGION}": "1x5 0x10 stale"},
        {5: 0, 7: 1, 15: 1, 18: 0},
    ),
    Case("MshareRegionWithoutOwner", "it lives", {f"mshare_region_owner_alive{REGION}": "1x60"}, {30: 0}),
    Case(
        "MshareRegionWithoutOwner",
        "the time is a variable",
        {f"mshare_region_owner_alive{REGION}": "0x60"},
        {9: 0, 10: 1},
        {"owner_for": "10m"},
    ),
    Case(
        "MshareClientsDead",
        "until they are started again",
        {f"mshare_region_clients_dead{REGION}": "0x5 3x20 0x20"},
        {5: 0, 11: 1, 26: 1, 28: 0},
    ),
    Case("MshareClientsDead", "all live", {f"mshare_region_clients_dead{REGION}": "0x60"}, {30: 0}),
    Case(
        "MshareClientsDead",
        "the threshold is a variable",
        {f"mshare_region_clients_dead{REGION}": "3x60"},
        {30: 0},
        {"dead_clients": 3},
    ),
    Case(
        "MshareSurveyStale",
        "it stops after 10 minutes, and goes on at last",
        surveyed("0+60x10 600x20 1860+60x30"),
        {10: 0, 18: 0, 20: 1, 30: 1, 33: 0},
    ),
    Case("MshareSurveyStale", "every minute", surveyed("0+60x60"), {30: 0, 60: 0}),
    Case(
        "MshareSurveyStale",
        "every half an hour is no reason, if that is the interval",
        surveyed("0x30 1800x30", interval=1800),
        {29: 0, 59: 0},
    ),
    Case(
        "MshareSurveyStale",
        "the host's clock is an hour behind, and it goes on",
        surveyed("-3600+60x60", node_time_seconds="-3600+60x60"),
        {30: 0, 60: 0},
    ),
    Case(
        "MshareSurveyStale",
        "the host's clock is an hour ahead, and it stops after 10 minutes",
        surveyed("3600+60x10 4200x60", node_time_seconds="3600+60x70"),
        {18: 0, 20: 1, 30: 1},
    ),
    Case(
        "MshareSurveyStale",
        "the clock is set back by an hour after 10 minutes, and it goes on",
        surveyed("3600+60x10 660+60x50", node_time_seconds="3600+60x10 660+60x50"),
        {11: 0, 30: 0, 60: 0},
    ),
    Case(
        "MshareSurveyStale",
        "it stops, and the clock is set back by an hour",
        surveyed("3600+60x10 4200x60", node_time_seconds="3600+60x10 660+60x50"),
        {20: 1, 30: 1},
    ),
    Case(
        "MshareSurveyStale",
        "the threshold is a variable",
        surveyed("0+60x10 600x20"),
        {30: 0},
        {"stale_seconds": 3600},
    ),
    Case(
        "MshareSurveyPartial",
        "until everything can be read",
        surveyed("0+60x60", mshare_survey_complete="0x20 1x20", mshare_survey_unread="2x20 0x20"),
        {14: 0, 15: 1, 20: 1, 22: 0},
    ),
    Case(
        "MshareSurveyPartial",
        "complete",
        surveyed("0+60x60", mshare_survey_complete="1x60", mshare_survey_unread="0x60"),
        {30: 0},
    ),
    Case(
        "MshareSurveyPartial",
        "the threshold is a variable",
        surveyed("0+60x60", mshare_survey_complete="0x60", mshare_survey_unread="2x60"),
        {30: 0},
        {"unread": 2},
    ),
    Case(
        "MshareSurveyGone",
        "the file is gone, until it is there again",
        surveyed("0+60x10 stale _x30 2400+60x20"),
        {10: 0, 25: 0, 27: 1, 40: 1, 43: 0},
    ),
    Case("MshareSurveyGone", "it is there", surveyed("0+60x60"), {30: 0, 60: 0}),
    Case(
        "MshareSurveyGone",
        "the whole host does not answer: that is for other alerts",
        {**surveyed("0+60x10 stale"), f"up{{{HOST}}}": "1x10 0x60"},
        {40: 0},
    ),
    Case("MshareSurveyGone", "a host that never had figures", {f"up{{{HOST}}}": "1x60"}, {40: 0}),
    Case(
        "MshareSurveyGone",
        "a host that was taken away is missed for a time that is a variable",
        surveyed("0+60x10 stale"),
        {30: 1, 80: 0},
        {"gone_window": "1h"},
    ),
    Case(
        "MshareNoSurvey", "until there is one", {**surveyed("_x30 1800+60x30")}, {14: 0, 15: 1, 29: 1, 31: 0}
    ),
    Case("MshareNoSurvey", "there is one", surveyed("0+60x60"), {30: 0}),
    Case("MshareNoSurvey", "the time is a variable", {f"up{{{HOST}}}": "1x60"}, {30: 0}, {"gone_for": "45m"}),
)


def promtool(folder: Path, tests: list[dict[str, Any]], **variables: Any) -> subprocess.CompletedProcess[str]:
    """What promtool answers to tests, of one interval, of the rules with these variables."""
    (folder / "rules.yml").write_text(alerts.rendered(**variables))
    interval = tests[0]["interval"]
    file = {"rule_files": ["rules.yml"], "evaluation_interval": interval, "tests": tests}
    (folder / "tests.yml").write_text(json.dumps(file))
    return subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


def series(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in given.items()]


def as_test(case: Case) -> dict[str, Any]:
    count = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    looks = [
        {"expr": count, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": number}]}
        for minute, number in case.firing.items()
    ]
    return {
        "name": case.name,
        "interval": f"{case.minutes}m",
        "input_series": series(case.series),
        "promql_expr_test": looks,
    }


@needs_promtool
@pytest.mark.parametrize("alert", sorted({case.alert for case in CASES}))
def test_an_alert_with_the_defaults(alert: str, tmp_path: Path) -> None:
    tests = [as_test(case) for case in CASES if case.alert == alert and not case.variables]
    done = promtool(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("case", [case for case in CASES if case.variables], ids=lambda case: case.name)
def test_a_variable(case: Case, tmp_path: Path) -> None:
    done = promtool(tmp_path, [as_test(case)], **case.variables)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_and_does_not_and_ends() -> None:
    names = {rule["alert"] for rule in alerts.rules("alert")}
    ended = {
        case.alert
        for case in CASES
        if "10" in re.sub("([01])\\1+", r"\1", "".join(map(str, case.firing.values())))
    }
    quiet = {case.alert for case in CASES if not any(case.firing.values())}
    assert ended == quiet == names


def test_every_threshold_is_tried() -> None:
    """What a variable changes is one of the cases; the others are about files and texts."""
    variables = {
        name.removeprefix("mshare_alerts_") for name in load_yaml(alerts.ROLE / "defaults" / "main.yml")
    }
    about_files = {"state", "rules", "dashboard", "service", "promtool", "runbooks", "labels"}
    times = {name for name in variables if name.endswith("_for")}
    tried = {name for case in CASES for name in case.variables}
    assert variables - about_files - times - tried == set()


# -- texts

TEXTS: dict[str, tuple[Mapping[str, str], str, str]] = {
    "MshareInstanceWillNotFit": (
        fits(of(100, 600), of(80, 600)),
        "postgresql 5432 (/data) on db1:9100 runs out of memory before its maximum of connections",
        "At its configured maximum its page tables would need 10GiB more than 100 % of the memory that"
        " is left for"
        " them.",
    ),
    "MshareHostWillNotFit": (
        host(of(140, 600), 100),
        "db1:9100 runs out of memory before its instances reach their maximum of connections",
        "Each instance alone would fit. With all of them at their configured maximum, page tables would"
        " need 20GiB"
        " more than 100 % of the memory that is available.",
    ),
    "MsharePageTablesGrow": (
        growing(f"{GIB}+{2 * TEN // 5}x100", 20),
        "Page tables on db1:9100 exhaust its memory within 24 hours",
        "If they go on growing as in the last 60 minutes, they will need 8.125GiB more than the memory"
        " that is"
        " available.",
    ),
    "MshareHugePagesIdle": (
        pool(of(95, 600)),
        "Huge pages of 2MiB on db1:9100 are reserved and not used",
        "95% of the pool is idle: it has 100GiB, which nothing else can use.",
    ),
    "MshareHugePagesFallback": (
        {
            f"mshare_instance_huge_pages_fallback{{{SERVER}}}": "1x600",
            f"mshare_instance_page_tables_bytes{{{SERVER}}}": of(3, 600),
            f"mshare_instance_page_tables_bytes{{{OTHER}}}": of(1, 600),
        },
        "postgresql 5432 (/data) on db1:9100 asked for huge pages and runs in small pages",
        "A server that may fall back does so without an error if the pool has too few free pages when it"
        " starts."
        " Its page tables take 3GiB.",
    ),
    "MsharePreloadLost": (
        {f"mshare_instance_preload_lost{{{SERVER}}}".replace('container=""', 'container="pod db"'): "1x600"},
        "postgresql 5432 (/data) in pod db on db1:9100 runs without the library that it should be"
        " started with",
        "Its configuration asks for mshare's preloaded library, and the running server does not have it:"
        " its shared"
        " memory is in small pages again, and its page tables grow with every connection.",
    ),
    "MshareRegionWithoutOwner": (
        {f"mshare_region_owner_alive{REGION}": "0x600"},
        "Region sga on db1:9100 has no owner",
        "The process that the region in /run/msharefs lives and dies with does not run. Programs that"
        " still have"
        " the region keep it until they end; no other can attach.",
    ),
    "MshareClientsDead": (
        {f"mshare_region_clients_dead{REGION}": "3x600"},
        "3 clients of region sga on db1:9100 are dead",
        "They ended before they were told to. The region is in /run/msharefs.",
    ),
    "MshareSurveyStale": (
        surveyed("0x600"),
        "The figures of db1:9100 are old",
        "The next survey is overdue by 57m 0s. Until it comes, all other alerts about this host show what was"
        " true before.",
    ),
    "MshareSurveyPartial": (
        surveyed("0+60x600", mshare_survey_complete="0x600", mshare_survey_unread="2x600"),
        "The survey of db1:9100 could not read everything",
        "2 things could not be read. Figures of this host may be too small.",
    ),
    "MshareSurveyGone": (
        surveyed("0+60x10 stale"),
        "db1:9100 no longer has figures about page tables",
        "The node exporter answers, but no longer shows what the role dbmem.mshare.monitoring wrote for"
        " it. The"
        " last survey was at 1970-01-01 00:10:00 +0000 UTC.",
    ),
    "MshareNoSurvey": (
        {},
        "No host has figures about page tables",
        "This Prometheus has rules about page tables, but no target shows any metric of a survey: no"
        " other alert of"
        " these rules can fire.",
    ),
}
"""Alert -> series, and the summary and description that they give after AFTER."""
AFTER = "60m"


@needs_promtool
def test_the_texts_of_the_alerts_and_labels_of_your_own(tmp_path: Path) -> None:
    severities = {rule["alert"]: rule["labels"] for rule in alerts.rules("alert")}
    tests = []
    for alert, (given, summary, description) in TEXTS.items():
        expected = {
            "exp_labels": {
                **dict(re.findall(r'(\w+)="([^"]+)"', next(iter(given), ""))),
                **severities[alert],
                "team": "databases",
            },
            "exp_annotations": {
                "summary": summary,
                "description": description,
                "runbook_url": f"{PAGE_URL}#{alert.lower()}",
            },
        }
        look = {"eval_time": AFTER, "alertname": alert, "exp_alerts": [expected]}
        tests.append(
            {"name": alert, "interval": "1m", "input_series": series(given), "alert_rule_test": [look]}
        )
    done = promtool(tmp_path, tests, labels={"team": "databases"}, growth_window_minutes=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_texts_that_are_tested() -> None:
    assert set(TEXTS) == {rule["alert"] for rule in alerts.rules("alert")}


# -- the files


def test_the_shipped_rules_are_those_of_the_defaults() -> None:
    assert alerts.SHIPPED.read_text() == alerts.rendered(), "run `make docs`"


@needs_promtool
def test_promtool_takes_the_shipped_rules() -> None:
    words = ["promtool", "check", "rules", str(alerts.SHIPPED)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def unknown_metrics(expression: str) -> set[str]:
    """Names of ours that no metric and no recording rule has."""
    known = {*metrics.names(), *(rule["record"] for rule in alerts.rules("record"))}
    return set(re.findall(r"\bmshare[_:][a-z_:]+", expression)) - known


def test_the_metrics_of_the_rules_exist() -> None:
    kinds = [*alerts.rules("alert"), *alerts.rules("record")]
    assert {name for rule in kinds for name in unknown_metrics(rule["expr"])} == set()
    assert unknown_metrics("mshare_host_bytes + mshare:host:bytes") == {
        "mshare_host_bytes",
        "mshare:host:bytes",
    }


def test_every_alert_has_a_section_on_the_page() -> None:
    headings = re.findall(r"^## (Mshare\w+)$", PAGE.read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts.rules("alert")]
    urls = [rule["annotations"]["runbook_url"] for rule in alerts.rules("alert")]
    assert urls == [f"{PAGE_URL}#{name.lower()}" for name in headings]


def test_every_section_says_what_it_means_how_to_check_and_what_to_do() -> None:
    __, *sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    for section in sections:
        if section.startswith("Mshare"):
            assert re.findall(r"^\*\*(.*?)\*\*", section, re.MULTILINE) == [
                "What it means.",
                "How to check.",
                "What to do.",
            ], section.partition("\n")[0]


def test_the_commands_on_the_page_are_understood() -> None:
    commands = re.findall(r"`((?:[a-z]+ -u [a-z-]+ -- )?mshare [a-z][^`]*)`", PAGE.read_text())
    assert commands
    for text in commands:
        words = shlex.split(text.partition("mshare ")[2])
        command: click.Command = mshare
        context = click.Context(mshare)
        while isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, text
            command, words = inner, words[1:]
        command.make_context(command.name, words)
