# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What grew from one report to the next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mshare.report.changes import Change, compare

EARLIER, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def fleet(when: str, **hosts: dict[str, int]) -> Any:
    """Hosts with the page tables of their instances; a host has 10 bytes of its own."""
    return SimpleNamespace(
        hosts=[
            SimpleNamespace(
                name=name,
                surveyed_at=when,
                page_tables_bytes=10 + sum(instances.values()),
                instances=[
                    SimpleNamespace(name=each, page_tables_bytes=size_bytes)
                    for each, size_bytes in instances.items()
                ],
            )
            for name, instances in hosts.items()
        ]
    )


def test_hosts_of_both_most_grown_first():
    found = compare(
        fleet(EARLIER, db1={"a": 100}, db2={"a": 100}, gone={"a": 1}),
        fleet(LATER, db1={"a": 90}, db2={"a": 150}, new={"a": 1}),
        "earlier.json",
    )
    assert found.hosts == (Change("db2", None, EARLIER, 110, 160), Change("db1", None, EARLIER, 110, 100))
    assert [change.grown_bytes for change in found.hosts] == [50, -10]
    assert (found.grown_bytes, found.since, found.earlier) == (40, EARLIER, "earlier.json")


def test_an_instance_that_came_and_one_that_went():
    found = compare(fleet(EARLIER, db1={"old": 30, "same": 5}), fleet(LATER, db1={"new": 20, "same": 5}), "e")
    assert [(change.instance, change.before_bytes, change.now_bytes) for change in found.instances] == [
        ("new", None, 20),
        ("same", 5, 5),
        ("old", 30, None),
    ]
    assert [change.grown_bytes for change in found.instances] == [20, 0, -30]


def test_nothing_in_common():
    found = compare(fleet(EARLIER, db1={}), fleet(LATER, db2={}), "e")
    assert found.to_fields() == {
        "earlier": "e",
        "since": None,
        "grown_bytes": 0,
        "hosts": [],
        "instances": [],
        "gone": ["db1"],
    }
