# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Oracle's administrator has to set, and whether it has taken effect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mshare.huge_pages import oracle, result
from mshare.huge_pages.converge import Around
from mshare.huge_pages.oracle import OracleFacts
from mshare.huge_pages.show import show
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB
from rig import surveys
from rig.pools import Pools

SPFILE = "/u01/app/oracle/product/19/dbhome_1/dbs/spfileORCL.ora"
PLENTY = 1 << 20


def instance(*segments: dict[str, Any], sid: str = "ORCL", **settings: str) -> dict[str, Any]:
    """An instance with an spfile; a setting of "" is none."""
    requested = settings.pop("use_large_pages", None)
    known = {name: value for name, value in {"spfile": SPFILE, **settings}.items() if value}
    return surveys.instance(
        f"oracle {sid}",
        0,
        1,
        640,
        kind="oracle",
        sid=sid,
        segments=list(segments),
        settings=known,
        huge_pages_requested=requested,
        pids=[os.getpid()],
    )


def all_facts(*instances: dict[str, Any], available: int = PLENTY) -> tuple[OracleFacts, ...]:
    return oracle.facts(from_fields(surveys.survey("db", list(instances))), available)


def facts(*segments: dict[str, Any], **settings: str) -> OracleFacts:
    (made,) = all_facts(instance(*segments, **settings))
    return made


def small(size_bytes: int = GIB, kind: str = "sysv") -> dict[str, Any]:
    return surveys.segment(size_bytes, 1, kind=kind)


def huge(size_bytes: int = GIB) -> dict[str, Any]:
    return surveys.segment(size_bytes, 1, kind="hugetlb", page_bytes=2 * MIB)


def test_an_sga_in_small_pages_needs_use_large_pages() -> None:
    made = facts(small(), sga_target="1G", memory_target="0")
    assert not made.done
    assert made.reason == "0 B of its 1 GiB of shared memory are in huge pages (measured)"
    assert made.pages == 516
    assert made.sql == (
        "-- TRUE, the default, falls back to small pages, and only the alert log says so.",
        "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;",
        "-- Takes effect at the next restart, which needs 516 free huge pages of 2 MiB.",
    )


def test_automatic_memory_is_turned_off_and_the_sga_gets_a_size() -> None:
    made = facts(small(kind="posix"), memory_target="2G", use_large_pages="FALSE")
    assert made.sql[:-1] == (
        "ALTER SYSTEM SET memory_target=0 SCOPE=SPFILE;",
        "-- Without memory_target, SGA and PGA need a size each. This one is what the SGA has now.",
        "ALTER SYSTEM SET sga_max_size=1024M SCOPE=SPFILE;",
        "ALTER SYSTEM SET sga_target=1024M SCOPE=SPFILE;",
        "-- ALTER SYSTEM SET pga_aggregate_target=<size> SCOPE=SPFILE;",
        "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;",
    )
    with_size = facts(small(), memory_max_target="2G", sga_target="1G", pga_aggregate_target="512M")
    assert not any("_target=1" in line or "pga" in line for line in with_size.sql)
    # RESET of what the spfile does not have is ORA-32010.
    reset = "ALTER SYSTEM RESET memory_max_target SCOPE=SPFILE;"
    assert reset in with_size.sql
    assert reset not in made.sql


@pytest.mark.parametrize("value", ["0", "0M", "00"])
def test_a_target_of_0_is_none(value: str) -> None:
    assert not any("memory" in line for line in facts(small(), memory_target=value, sga_target="1G").sql)


def test_who_has_no_spfile_is_told_where_to_write_it() -> None:
    first, *__ = facts(small(), spfile="", sga_target="1G").sql
    assert first == "-- It has no spfile: write the parameters into initORCL.ora instead (name=value)."


@pytest.mark.parametrize(("kind", "automatic"), [("sysv", False), ("posix", True)])
def test_what_cannot_be_read_is_to_be_checked_first(kind: str, automatic: bool) -> None:
    """An spfile in ASM: ONLY and memory_target together would keep the instance from starting."""
    segment = surveys.segment(GIB, 1, kind=kind, name="/dev/shm/ora_ORCL_1_0" if automatic else "SYSV")
    unread = {**instance(segment, spfile="+DATA/ORCL/spfileorcl.ora"), "processes_maximum": None}
    (made,) = all_facts(unread)
    assert made.sql[:4] == (
        "-- Its parameter file (+DATA/ORCL/spfileorcl.ora) could not be read, so check them first:",
        "SHOW PARAMETER use_large_pages",
        "SHOW PARAMETER memory_",
        "-- Huge pages and memory_target exclude each other. If it is not 0, set it to 0 as well.",
    )
    (hostile,) = all_facts({**unread, "settings": {"spfile": "+DATA/\x1b[2Jx"}})
    assert "+DATA/\\x1b[2Jx" in hostile.sql[0]
    # Where the memory is shows it all the same.
    assert ("ALTER SYSTEM SET memory_target=0 SCOPE=SPFILE;" in made.sql) == automatic


@pytest.mark.parametrize(
    ("value", "comment"),
    [
        ("ONLY", None),
        ("AUTO_ONLY", None),
        (
            "AUTO",
            "-- AUTO has Oracle enlarge vm.nr_hugepages at its start. ONLY leaves the pool alone.",
        ),
        (
            "TRUE",
            "-- TRUE, the default, falls back to small pages, and only the alert log says so.",
        ),
        ("FALSE", ""),
    ],
)
def test_every_value_of_use_large_pages(value: str, comment: str | None) -> None:
    lines = facts(small(), sga_target="1G", use_large_pages=value).sql
    assert ("ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;" in lines) == (comment is not None)
    assert [line for line in lines[:-1] if line.startswith("--")] == [comment] * bool(comment)


def test_a_pool_that_is_too_small_for_all_that_wait_is_told() -> None:
    waiting = [instance(small(), sid=sid, sga_target="1G", use_large_pages="ONLY") for sid in ("A", "B")]
    there = instance(huge(), sid="C", use_large_pages="ONLY")
    for available, last in (
        (1032, "-- Takes effect at the next restart, which needs 516 free huge pages of 2 MiB."),
        (
            1000,
            "-- First reserve 32 more: 1000 are free, and the Oracle instances of this host need 1032."
            " With ONLY, an instance does not start without them.",
        ),
    ):
        one, other, done = all_facts(*waiting, there, available=available)
        assert (one.sql[-1], other.sql[-1], done.sql) == (last, last, ())


@pytest.mark.parametrize("sid", ["+ASM", "+ASM1", "+APX2", "-MGMTDB"])
def test_grid_infrastructure_is_left_alone(sid: str) -> None:
    """Oracle recommends Automatic Memory Management for ASM: nothing is to be set, and nothing is counted."""
    made, waits = all_facts(
        instance(small(kind="posix"), sid=sid, memory_target="1G"),
        instance(small(), sga_target="1G", use_large_pages="ONLY"),
        available=516,
    )
    assert (made.sql, made.limits, made.done, made.left_alone) == ((), (), False, True)
    (line,) = result.oracle_lines([made])
    assert line.startswith(f"oracle {sid}: left alone, 0 B of its 1 GiB of shared memory are in huge pages")
    assert "First reserve" not in waits.sql[-1]


def test_after_the_restart_it_is_done() -> None:
    made = facts(huge(), use_large_pages="ONLY")
    assert (made.done, made.sql) == (True, ())
    assert list(result.oracle_lines([made])) == [
        "oracle ORCL: done, 1 GiB of its 1 GiB of shared memory are in huge pages (measured)."
    ]


def test_the_few_small_pages_beside_an_sga_do_not_matter() -> None:
    made = facts(huge(), small(48 << 10), use_large_pages="ONLY")
    assert (made.done, made.sql) == (True, ())
    assert not facts(huge(), small(2 * MIB), use_large_pages="ONLY").done


def test_in_part_is_not_done() -> None:
    made = facts(huge(), small(512 * MIB), use_large_pages="TRUE")
    assert not made.done
    assert made.reason == "1 GiB of its 1.5 GiB of shared memory are in huge pages (measured)"
    lines = list(result.oracle_lines([made]))
    assert lines[0].startswith("oracle ORCL: not done, ")
    assert "  ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;" in lines


def test_what_is_shown_of_a_host_has_its_oracle_instances(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "etc"))
    survey = from_fields(surveys.survey("db", [instance(huge())]))
    shown = show(Around(Pools(tmp_path / "host").host, lambda: survey, stopped=lambda *which: ()))
    assert shown.lines()[-1].startswith("oracle ORCL: done, 1 GiB of its 1 GiB")


def test_without_shared_memory_nothing_is_done() -> None:
    assert not facts().done


def test_limits_only_where_less_may_be_locked(monkeypatch: Any) -> None:
    for allowed, expected in (("unlimited", 0), (str(2 * GIB), 0), (str(64 * MIB), 2)):
        monkeypatch.setattr(oracle, "_memlock", lambda pid, allowed=allowed: allowed)
        made = facts(small(), sga_target="1G")
        assert len(made.limits) == expected
    assert made.limits[0] == f"{made.user} soft memlock unlimited"
