# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that do not run and would take huge pages at their start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mshare.errors import Unavailable
from mshare.huge_pages import stopped
from mshare.postgresql.clusters import Cluster
from mshare.units import GIB, MIB
from rig.pools import Pools


class Clusters:
    """The clusters of a host, and what each of them is set to."""

    def __init__(self) -> None:
        self.settings: dict[str, dict[str, tuple[str, str]]] = {}
        self.running: set[str] = set()
        self.asked: list[tuple[Any, ...]] = []
        self.version = "15"
        self.pages: int | None = 74

    def add(self, name: str, **settings: str) -> None:
        self.settings[name] = {key: (value, "postgresql.conf") for key, value in settings.items()}

    def every(self) -> list[Cluster]:
        return [
            Cluster(
                self.version, name, f"/data/{name}", 7, 7, f"/etc/postgresql/{self.version}/{name}", "/pg/bin"
            )
            for name in self.settings
        ]

    def of_stopped(self, *question: Any) -> int:
        self.asked.append(question)
        if self.pages is None:
            raise stopped.sizing.Unanswered("it is broken")
        return self.pages


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    made = Clusters()
    monkeypatch.setattr(stopped.clusters, "every", made.every)
    monkeypatch.setattr(stopped.clusters, "settings", lambda cluster: made.settings[cluster.name])
    running = SimpleNamespace()
    monkeypatch.setattr(
        stopped.server, "running", lambda cluster: running if cluster.name in made.running else None
    )
    monkeypatch.setattr(stopped.sizing, "of_stopped", made.of_stopped)
    monkeypatch.setattr(stopped, "of_oracle", lambda host, sids: ())
    return made


def told(page_bytes: int = 2 * MIB) -> list[str]:
    return list(stopped.warnings(page_bytes, 2 * MIB, ()))


def test_a_cluster_that_does_not_run_is_told_with_what_it_needs(clusters: Clusters) -> None:
    clusters.add("on", huge_pages="on")
    clusters.add("runs", huge_pages="on")
    clusters.running.add("runs")
    assert told() == [
        "PostgreSQL cluster 15-on does not run, so the 74 pages of 2 MiB that it takes at its start are not"
        " counted (huge_pages = on, postgresql.conf; configured: postgres -C"
        " shared_memory_size_in_huge_pages); add them to spare, or run this again while it runs"
    ]
    assert clusters.asked == [
        (7, "/pg/bin/postgres", "/data/on", "/etc/postgresql/15/on/postgresql.conf", 2 * MIB)
    ]


def test_where_it_cannot_be_asked_that_is_told(clusters: Clusters) -> None:
    clusters.pages = None
    clusters.add("main")
    assert told() == [
        "PostgreSQL cluster 15-main does not run, so its huge pages are not counted (huge_pages = try,"
        " PostgreSQL's default), and how many it needs is not known: it is broken; run this again while it"
        " runs"
    ]
    clusters.version = "14"
    (text,) = told()
    assert "PostgreSQL 14 cannot say (15 can)" in text


@pytest.mark.parametrize(
    ("version", "settings", "page_bytes", "count"),
    [
        ("15", {"huge_pages": "off"}, 2 * MIB, 0),
        ("15", {"huge_pages": "ON"}, 2 * MIB, 1),
        ("9.3", {}, 2 * MIB, 0),
        ("9.4", {}, 2 * MIB, 1),
        # Each size has its pool.
        ("15", {"huge_page_size": "1GB"}, 2 * MIB, 0),
        ("15", {"huge_page_size": "1GB"}, GIB, 1),
        ("15", {}, GIB, 0),
    ],
)
def test_only_those_that_take_pages_of_that_size(
    clusters: Clusters, version: str, settings: dict[str, str], page_bytes: int, count: int
) -> None:
    clusters.version = version
    clusters.add("main", **settings)
    assert len(told(page_bytes)) == count


def test_clusters_that_cannot_be_listed_are_no_failure(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied() -> list[Cluster]:
        raise Unavailable("its files may not be read")

    monkeypatch.setattr(stopped.clusters, "every", denied)
    assert told() == [
        "PostgreSQL clusters that do not run are not counted, and could not be listed: its files may not be"
        " read"
    ]


ORATAB = """\
# A comment:/opt/oracle:N
ORCL:/opt/oracle:Y   # the first
RAC:/opt/oracle:N
+ASM:/opt/oracle:N
*:/opt/oracle:N
GONE:/opt/removed:Y

"""


@pytest.mark.parametrize(
    ("running", "stopped_sids"),
    [((), ["ORCL", "RAC"]), (("ORCL",), ["RAC"]), (("RAC1", "ORCL"), []), (("ORCL2X",), ["ORCL", "RAC"])],
)
def test_oracles_that_do_not_run(tmp_path: Path, running: tuple[str, ...], stopped_sids: list[str]) -> None:
    pools = Pools(tmp_path)
    assert list(stopped.of_oracle(pools.host, running)) == []
    pools.write("etc/oratab", ORATAB)
    pools.path("opt/oracle/dbs").mkdir(parents=True)
    texts = list(stopped.of_oracle(pools.host, running))
    assert [text.split()[2] for text in texts] == stopped_sids
    assert all("(/etc/oratab) does not run, so its huge pages are not counted" in text for text in texts)
