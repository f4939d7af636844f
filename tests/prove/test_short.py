# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make prove` in short: each suite with few tries. What it finds is shown as the long run shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest

from prove import command_lines, disturb, events, operations, scale, tally
from prove.machine import Machine, Node, State, exposed, new_machine, unfinished
from prove.tally import Row

TRIES = 2
DISTURBED = {
    "kills": {"umount --force", "owner", "keep-files"},
    "errors": {"mount", "create"},
}


@pytest.fixture(scope="module")
def machine():
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(new_machine())
        except OSError as error:
            pytest.skip(str(error))
        operations.prepare(one)
        yield one


def require(rows: Iterable[Row]) -> None:
    for row in rows:
        assert row.injected > 0, row.what
        assert row.differs == []


@pytest.mark.parametrize("suite", DISTURBED)
def test_operations_that_are_disturbed(machine: Machine, suite: str) -> None:
    table = [*operations.command_lines(), *operations.runtime()]
    require(disturb.run(machine, disturb.only(table, DISTURBED[suite]), suite, TRIES))


@pytest.mark.usefixtures("machine")
def test_surveys_for_prometheus_that_are_disturbed() -> None:
    table = disturb.only(operations.monitoring(), {"mshare_monitoring present"})
    require(disturb.run_apart(table, "kills", 1))


def test_command_lines(machine: Machine) -> None:
    require([command_lines.on(machine, 100)])


def test_rounds(machine: Machine) -> None:
    require([scale.rounds(machine, 2), scale.many_clients(machine, 100)])


# -- the proof itself: what it would find


def test_a_state_names_what_was_left() -> None:
    file = Node(0o100600, 0, 0, "a")
    before = State({"/etc/mshare": file, "/etc/x": file}, ("owner",), ("/run/msharefs",))
    after = State({"/etc/mshare": Node(0o100644, 0, 0, "b"), "/run/y": file}, ("owner", "owner"), ())
    assert after.differences(before) == [
        "/run/y was left",
        "/etc/x is missing",
        "/etc/mshare has (33188, 0, 0) instead of (33152, 0, 0)",
        "processes have owner in addition",
        "mounts lack /run/msharefs",
    ]


def test_files_that_others_may_read_are_found() -> None:
    secret, successor = "/run/mshare/log", "/run/mshare/.log.0123456789abcdef.new"
    now = State({secret: Node(0o100644, 0, 0, ""), successor: Node(0o100600, 0, 0, "")}, (), ())
    assert exposed(now, {secret: {(0o100600, 0, 0)}}) == [f"{secret} has mode 0644 of 0:0"]
    assert exposed(now, {secret: {(0o100644, 0, 0)}}) == []
    assert unfinished(now) == [successor]
    someone_s = State({secret: Node(0o100600, 1000, 0, "")}, (), ())
    assert exposed(someone_s, {}) == [f"{secret} has mode 0600 of 1000:0"]


def test_events_are_counted_by_call() -> None:
    log = (
        'openat(0, "/a", O_RDONLY) = 3\nwrite(3</a>, "x", 1) = 1\nopenat(3</a>, "b", O_CREAT) = 4\n+++ exited'
    )
    found = events.parse(log)
    assert [(event.call, event.number, event.changes) for event in found] == [
        ("openat", 1, False),
        ("write", 1, True),
        ("openat", 2, True),
    ]
    assert [event.number for event in events.spread([found[0]] * 9, 3)] == [1, 1, 1]


def test_the_page_has_every_row_and_the_sum() -> None:
    row = Row("kills", "`mount`")
    row.count([])
    row.count(["`mount`, killed at write: /etc/mshare was left"])
    page = tally.page({"kills": tally.new([row], "make prove", 61)})
    assert "| `mount` | 2 | 1 | 1 |" in page
    assert "- `mount`, killed at write: /etc/mshare was left" in page
    assert "Together: 2 injected, 1 survived, 1 differ." in page
