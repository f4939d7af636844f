# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/monitoring.md as it is typed: Debian's Prometheus, Alertmanager and node exporter, and a PostgreSQL
under pgbench that would not fit at its maximum of connections.

One story, told in the order of this file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from checks import dashboard
from fleet.world import World, world
from integration.hosts import Run
from rig import documents, picture
from rig.hosts.base import MONITORING
from rig.hosts.fleet import missing_systemd

INTERVAL_SECONDS = 5
"""The shortest that the role monitoring takes."""
_PER_CONNECTION_KIB = 500
"""Less than a backend's page tables after it has read all of the table."""
_CONNECTIONS_MAXIMUM = 200_000
ALERT = "MshareInstanceWillNotFit"
# Not shorter: the time that a scrape may take is no longer than the interval.
_SHORTLY = "-e 's/^\\(  scrape_interval: *\\)15s/\\15s/' -e 's/^\\(  evaluation_interval: *\\)15s/\\11s/'"
# Its backends read the whole table, again and again. Other tests may use the machine's pool of huge pages.
_POSTGRESQL = r"""
set -e
cd /
pg_createcluster 15 main
cat >>/etc/postgresql/15/main/postgresql.conf <<END
huge_pages = off
shared_buffers = 512MB
max_connections = @CONNECTIONS@
max_locks_per_transaction = 10
max_pred_locks_per_transaction = 10
track_activity_query_size = 100
max_parallel_workers_per_gather = 0
fsync = off
END
systemctl start postgresql@15-main
runuser -u postgres -- pgbench -i -q -F 10 -s 2 postgres
"""
_LOAD = r"""
cd /
runuser -u postgres -- psql -qc 'CREATE EXTENSION IF NOT EXISTS pg_prewarm' \
  -c "SELECT pg_prewarm('pgbench_accounts')" >/dev/null
echo 'SELECT sum(abalance) FROM pgbench_accounts' >/tmp/all.sql
setsid runuser -u postgres -- pgbench -n -f /tmp/all.sql -c 8 -R 4 -T 100000 postgres \
  >/tmp/load 2>&1 </dev/null &
"""
# So that what is shown of regions has something to show. A new mount does not come to a service that
# runs in a namespace of its own: test hosts do not share their mounts, as a systemd does that boots.
_REGION = """
mshare mount && mshare create sga --size 64MiB && mshare clients start sga --count 2
systemctl restart mshare-monitoring
"""
# What the picture of the dashboard shows more of: a second server, and connections that become more.
_SECOND = r"""
set -e
cd /
pg_createcluster 15 reports -p 5433
printf 'huge_pages = off\nshared_buffers = 128MB\nmax_connections = 50\n' \
  >>/etc/postgresql/15/reports/postgresql.conf
systemctl start postgresql@15-reports
runuser -u postgres -- pgbench -p 5433 -i -q -s 5 postgres
setsid runuser -u postgres -- pgbench -p 5433 -n -S -c 4 -R 20 -T 100000 postgres \
  >/dev/null 2>&1 </dev/null &
"""
_MORE = r"""
cd /
setsid runuser -u postgres -- pgbench -n -f /tmp/all.sql -c 6 -R 1 -T 100000 postgres \
  >/dev/null 2>&1 </dev/null &
"""
PICTURE = os.environ.get("MSHARE_PICTURE")
"""The file in docs to draw the dashboard into (`make picture`), from some minutes."""
_STEPS, _STEP_SECONDS = 6, 80
_RESOLUTION_SECONDS = 15

pytestmark = pytest.mark.skipif(missing_systemd() is not None, reason=missing_systemd() or "")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("monitoring"), 1, MONITORING) as made:
        made.do(0, _POSTGRESQL.replace("@CONNECTIONS@", str(connections())))
        made.do(0, _LOAD)
        yield made


def memory_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))


def connections() -> int:
    """With this maximum the page tables would not fit into the RAM, unless the machine is very large."""
    return min(memory_kib() // _PER_CONNECTION_KIB, _CONNECTIONS_MAXIMUM)


def ask(host: World, path: str, *parameters: dict[str, Any]) -> list[Any]:
    """What Prometheus answers to requests with these parameters, made in one go."""
    urls = [f"http://localhost:9090/api/v1/{path}?{urllib.parse.urlencode(each)}" for each in parameters]
    lines = host.do(0, "\n".join(f"curl -sS {shlex.quote(url)} && echo" for url in urls)).splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer for answer in answers if answer["status"] != "success"] == []
    return [answer["data"] for answer in answers]


def values(host: World, query: str) -> list[float]:
    (data,) = ask(host, "query", {"query": query})
    return [float(row["value"][1]) for row in data["result"]]


def in_alertmanager(host: World) -> list[Any]:
    """The alert, as Alertmanager has it; none while it has not, or does not answer."""
    asked = f"amtool --alertmanager.url=http://localhost:9093 --output=json alert query alertname={ALERT}"
    alerts: list[Any] = json.loads(host.do(0, f"{asked} 2>/dev/null || echo '[]'"))
    return alerts


def without_data(host: World, queries: list[str]) -> list[str]:
    answers = ask(host, "query", *({"query": query} for query in queries))
    return [query for query, data in zip(queries, answers) if not data["result"]]


def series(host: World) -> set[str]:
    """The series that there ever were about PostgreSQL, by their labels."""
    (found,) = ask(host, "series", {"match[]": '{__name__=~"mshare_instance_.*",kind="postgresql"}'})
    return {json.dumps(labels, sort_keys=True) for labels in found}


def play(host: World, blocks: list[documents.Block]) -> Run:
    """Plays of the documentation, with short intervals, on the one host that is both kinds of host."""
    plays = documents.plays(blocks)
    for each in plays:
        each |= {"hosts": "all", "gather_facts": False}
    path = host.scratch / "monitoring.json"
    path.write_text(json.dumps(plays))
    exceeds = connections() < _CONNECTIONS_MAXIMUM
    ratio = 1.0 if exceeds else connections() * _PER_CONNECTION_KIB / memory_kib()
    given = {
        "mshare_monitoring_interval": INTERVAL_SECONDS,
        # For 5 s after each change of its configuration Prometheus looks for Alertmanager; what it could not
        # send by then comes a minute later.
        "mshare_alerts_room_for": "10s",
        "mshare_alerts_room_ratio": ratio,
    }
    return host.playbook(str(path), **given).succeeded()


def test_the_alert_is_in_alertmanager(host: World) -> None:
    host.do(0, documents.script("docs/monitoring.md: On the hosts with databases"))
    host.do(0, documents.script("docs/monitoring.md: On the host with Prometheus"))
    host.do(0, f"sed -i {_SHORTLY} /etc/prometheus/prometheus.yml")
    play(host, documents.yaml_blocks("docs/monitoring.md: Both roles"))
    host.do(0, _REGION)
    host.eventually(lambda: in_alertmanager(host), "the alert in Alertmanager")
    host.do(0, f"set -e\n{documents.script('docs/monitoring.md: See the alerts')}")
    alert = in_alertmanager(host)[0]
    assert alert["labels"]["severity"] == "critical"
    # A service in a namespace of its own sees more of the path than others: a test host's root is a chroot.
    summary = alert["annotations"]["summary"]
    assert summary.startswith("postgresql 5432 (/"), summary
    assert "/var/lib/postgresql/15/main) on localhost:9100 runs out of memory" in summary
    assert alert["annotations"]["runbook_url"].endswith(f"#{ALERT.lower()}")


def test_every_query_of_the_dashboard_has_data(host: World) -> None:
    queries = dashboard.queries()
    assert len(queries) > 30
    host.eventually(lambda: not without_data(host, queries), "data for every query")


def rise(host: World) -> None:
    """Let some minutes go by in which connections become more."""
    host.do(0, _SECOND)
    for __ in range(_STEPS):
        host.do(0, _MORE)
        time.sleep(_STEP_SECONDS)


def answers(host: World, seconds: int) -> dict[picture.Query, Sequence[picture.Series]]:
    """What Prometheus answers to the dashboard's queries: now, and over the last so many seconds."""
    asked, now = picture.queries(dashboard.dashboard()), int(time.time())
    given = {}
    for path, instant in (("query", True), ("query_range", False)):
        chosen = [query for query in asked if query.instant == instant]
        span = {} if instant else {"start": now - seconds, "end": now, "step": _RESOLUTION_SECONDS}
        rows = ask(host, path, *({"query": query.expression, **span} for query in chosen))
        for query, data in zip(chosen, rows):
            given[query] = [picture.Series.of(_as_on_a_host(row)) for row in data["result"]]
    return given


def _as_on_a_host(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is before the root of a test host, which is a chroot."""
    labels = {name: re.sub(r"^/.*/host1/root(?=/)", "", value) for name, value in row["metric"].items()}
    return {**row, "metric": labels}


def test_the_dashboard_is_drawn_from_these_data(host: World, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if PICTURE is not None:
        rise(host)
    file = tmp_path / "dashboard.svg" if PICTURE is None else Path(PICTURE)
    file_of_grafana = dashboard.dashboard()
    drawn = answers(host, 60 if PICTURE is None else _STEPS * _STEP_SECONDS)
    picture.draw(file_of_grafana, drawn, file)
    assert file.stat().st_size < picture.LIMIT_BYTES
    texts = [element.text for element in ElementTree.parse(file).iter() if element.text]
    assert picture.NOTE in texts
    assert [panel["title"] for panel in file_of_grafana["panels"] if panel["title"] not in texts] == []
    assert not any("No data" in text for text in texts)
    lines = [
        picture.legend(query.legend, each.labels) for query in drawn for each in drawn[query] if query.legend
    ]
    assert [line for line in lines if line not in texts and line != "__auto"] == []


def test_prometheus_found_nothing_wrong_with_the_rules(host: World) -> None:
    (answer,) = ask(host, "rules", {})
    (group,) = answer["groups"]
    assert [rule["lastError"] for rule in group["rules"] if rule["health"] != "ok"] == []


def test_a_restart_keeps_the_series(host: World) -> None:
    before = series(host)
    assert before
    host.do(0, "systemctl restart postgresql@15-main")
    host.do(0, _LOAD)
    (last,) = values(host, "last_over_time(mshare_survey_timestamp_seconds[1h])")
    later = f"mshare_survey_timestamp_seconds > {last + INTERVAL_SECONDS}"
    host.eventually(lambda: values(host, later), "a survey that began after the restart")
    assert series(host) == before


def test_a_second_run_changes_nothing(host: World) -> None:
    blocks = documents.yaml_blocks(
        "roles/monitoring/README.md: Role dbmem.mshare.monitoring",
        "roles/alerts/README.md: Role dbmem.mshare.alerts",
    )
    run = play(host, blocks).on("host1")
    assert run.recap["changed"] == 0, run.output
