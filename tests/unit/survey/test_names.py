# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of instances: what sets two of the same name apart, and that nothing else is added."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mshare.survey.names import Named, apart
from mshare.survey.record import InstanceRecord, from_fields
from mshare.units import GIB
from rig.surveys import instance, survey


def named(arguments: tuple[str, ...] = (), environment: dict[str, str] | None = None, **fields: Any) -> Named:
    (found,) = from_fields(survey("db1", [instance("main", GIB, 10)])).instances
    plain: dict[str, Any] = {"unit": None, "cgroup": None, "container": None, "data_directory": None}
    leader: Any = SimpleNamespace(arguments=lambda: list(arguments), environment=lambda: environment or {})
    return Named(replace(found, **{**plain, **fields}), leader)


def names(*found: Named) -> list[str]:
    records: list[InstanceRecord] = apart(found)
    return [record.name for record in records]


def test_one_alone_keeps_its_name():
    assert names(named(data_directory="/srv/a", cgroup="/a")) == ["main"]


def test_unit_and_container_are_always_part_of_it():
    assert names(named(unit="pg.service")) == ["main (pg)"]
    assert names(named(unit="session-1.scope")) == ["main"]
    assert names(named(unit="docker.service", container="docker 4711")) == ["main (docker 4711)"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"data_directory": "/a"}, {"data_directory": "/b"}, ["main /a", "main /b"]),
        ({"cgroup": "/a"}, {"cgroup": "/"}, ["main /a", "main"]),
        (
            {"kind": "python", "arguments": ("python3", "-u", "/opt/a.py")},
            {"kind": "python", "arguments": ("python3", "-m", "other")},
            ["main a.py", "main other"],
        ),
        ({"environment": {"HOSTNAME": "pod-a"}}, {}, ["main on pod-a", "main"]),
        ({"pids": (7, 5)}, {"pids": (9,)}, ["main (process 5)", "main (process 9)"]),
    ],
    ids=["data directory", "cgroup", "script", "host name", "oldest process"],
)
def test_what_sets_two_apart(one, other, expected):
    assert names(named(**one), named(**other)) == expected
    assert names(named(**other), named(**one)) == expected[::-1], "in the order they came"


def test_a_word_that_both_have_does_not_set_them_apart():
    same = {"data_directory": "/srv/pg"}
    assert names(named(**same, pids=(5,)), named(**same, pids=(9,))) == [
        "main (process 5)",
        "main (process 9)",
    ]
