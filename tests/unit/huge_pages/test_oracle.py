# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Oracle's administrator has to set, and whether it has taken effect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mshare.huge_pages import oracle, result
from mshare.huge_pages.converge import Around
from mshare.huge_pages.oracle import OracleFacts
from mshare.huge_pages.show import show
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB
from rig import surveys
from rig.pools import Pools


def facts(*segments: dict[str, Any], **settings: str) -> OracleFacts:
    requested = settings.pop("use_large_pages", None)
    instance = surveys.instance(
        "oracle ORCL",
        0,
        1,
        kind="oracle",
        sid="ORCL",
        segments=list(segments),
        settings=settings,
        huge_pages_requested=requested,
        pids=[os.getpid()],
    )
    (made,) = oracle.facts(from_fields(surveys.survey("db", [instance])))
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
        "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;",
        "-- Takes effect at the next restart, which needs 516 free huge pages of 2 MiB.",
    )


def test_automatic_memory_is_turned_off_and_the_sga_gets_a_size() -> None:
    made = facts(small(kind="posix"), memory_target="2G")
    assert made.sql[:2] == (
        "ALTER SYSTEM SET memory_target=0 SCOPE=SPFILE;",
        "ALTER SYSTEM RESET memory_max_target SCOPE=SPFILE;",
    )
    assert "ALTER SYSTEM SET sga_target=1024M SCOPE=SPFILE;" in made.sql
    with_size = facts(small(), memory_max_target="2G", sga_target="1G")
    assert not any("sga_target=" in line for line in with_size.sql)


def test_after_the_restart_it_is_done() -> None:
    made = facts(huge(), use_large_pages="ONLY")
    assert (made.done, made.sql) == (True, ())
    assert list(result.oracle_lines([made])) == [
        "oracle ORCL: done, 1 GiB of its 1 GiB of shared memory are in huge pages (measured)."
    ]


def test_in_part_is_not_done() -> None:
    made = facts(huge(), small(512 * MIB), use_large_pages="TRUE")
    assert not made.done
    assert made.reason == "1 GiB of its 1.5 GiB of shared memory are in huge pages (measured)"
    lines = list(result.oracle_lines([made]))
    assert lines[0].startswith("oracle ORCL: not done, ")
    assert "  ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;" in lines


def test_what_is_shown_of_a_host_has_its_oracle_instances(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(tmp_path / "etc"))
    instance = surveys.instance("oracle ORCL", 0, 1, kind="oracle", sid="ORCL", segments=[huge()])
    survey = from_fields(surveys.survey("db", [instance]))
    shown = show(Around(Pools(tmp_path / "host").host, lambda: survey))
    assert shown.lines()[-1].startswith("oracle ORCL: done, 1 GiB of its 1 GiB")


def test_without_shared_memory_nothing_is_done() -> None:
    assert not facts().done


def test_limits_only_where_less_may_be_locked(monkeypatch: Any) -> None:
    for allowed, expected in (("unlimited", 0), (str(2 * GIB), 0), (str(64 * MIB), 2)):
        monkeypatch.setattr(oracle, "_memlock", lambda pid, allowed=allowed: allowed)
        made = facts(small(), sga_target="1G")
        assert len(made.limits) == expected
    assert made.limits[0] == f"{made.user} soft memlock unlimited"
