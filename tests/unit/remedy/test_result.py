# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result for people."""

from __future__ import annotations

from dataclasses import replace

from mshare.remedy.result import InstanceResult, Measured, PoolResult, Result
from mshare.units import KIB, MIB

MEASURED = Measured(10, 6720 * KIB, 1160 * KIB, "measured")
INSTANCE = InstanceResult(
    "postgresql 5432",
    "15-main",
    "native",
    "the plan recommends it",
    changed=True,
    restarted=True,
    memory="segment /anon_hugepage (hugetlb, 144 MiB at 0x7f0000000000)",
    measured=(MEASURED,),
)
RESULT = Result(
    changed=True,
    check=False,
    actions=("write a file",),
    before={},
    after={},
    instances=(INSTANCE,),
    pool=PoolResult(2 * MIB, 0, 80),
    page_tables_before_bytes=50 * MIB,
    page_tables_after_bytes=20 * MIB,
    needs_library=False,
    needs_program=False,
    restart_required=False,
    recorded=True,
)


def test_what_was_done() -> None:
    assert RESULT.lines() == [
        "postgresql 5432 (15-main): native, changed.",
        "  segment /anon_hugepage (hugetlb, 144 MiB at 0x7f0000000000)",
        "  page tables of 10 processes: 6.6 MiB before, 1.1 MiB after (measured)",
        "The pool of huge pages of 2 MiB has 80 pages (160 MiB), 0 before.",
        "PageTables of the host: 50 MiB before, 20 MiB after (measured, all processes).",
    ]


def test_what_would_be_done() -> None:
    waits = replace(
        INSTANCE, restarted=False, restart_required=True, restart_reason="it is not there", measured=()
    )
    lines = replace(
        RESULT, check=True, instances=(waits,), page_tables_after_bytes=None, restart_required=True
    ).lines()
    assert lines[:2] == [
        "1 step to do. This was a check: nothing is changed yet.",
        "Would write a file.",
    ]
    assert "postgresql 5432 (15-main): native, to be restarted, because it is not there." in lines
    assert "The pool of huge pages of 2 MiB would have 80 pages (160 MiB), 0 before." in lines
    assert lines[-2:] == [
        "Servers are restarted only with restart_ok (-e mshare_remedy_restart_ok=true).",
        "Next: run it without --check. The whole plan: playbook dbmem.mshare.plan.",
    ]
    assert not any("segment" in line for line in lines)


def test_lines_fit_a_terminal_and_no_name_is_told_twice() -> None:
    long = replace(
        INSTANCE,
        name="postgresql 5432 (postgresql@15-main)",
        restart_required=True,
        restart_reason="segment inode 321085 (anonymous, 75 MiB at 0x7f7efdbb4000) is not in the pool",
    )
    lines = replace(RESULT, check=True, instances=(long,), restart_required=True).lines()
    assert all(len(line) <= 80 for line in lines)
    assert "postgresql 5432 (postgresql@15-main): native, to be restarted, because segment" in lines


def test_nothing_to_do() -> None:
    passed = InstanceResult("oracle ORCL", None, None, "it is no PostgreSQL")
    lines = replace(RESULT, changed=False, actions=(), pool=None, instances=(passed,)).lines()
    assert lines == ["Nothing to do.", "oracle ORCL: it is no PostgreSQL."]


def test_a_service() -> None:
    kept = replace(INSTANCE, changed=False, service=True)
    lines = list(kept.lines())
    assert lines[0].endswith("native, as it was.")
    assert lines[-1] == "  a service collapses it again after each restart"
