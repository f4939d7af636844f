# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page: one file that fetches nothing, in which strangers' names are only text."""

from __future__ import annotations

import base64
import hashlib
import re
import sys

import pytest

from mshare.errors import Unavailable
from mshare.report import page
from mshare.report.fleet import Fleet, Missing, fleet
from mshare.units import GIB
from rig import surveys


def fleet_of(name: str = "db1", instance: str = "main") -> Fleet:
    return fleet({name: surveys.survey(name, [surveys.instance(instance, 64 * GIB, 100, 300)])})


def test_nothing_is_fetched_from_anywhere() -> None:
    text = page.page(fleet_of())
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert "@import" not in text
    assert "url(" not in text


def test_the_policy_lets_the_script_of_the_page_run_and_no_other() -> None:
    text = page.page(fleet_of())
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (scripts[0], scripts[0].lstrip("\n"))
    ]
    allowed = re.search(r"script-src 'sha256-([^']+)'", text)
    assert allowed is not None
    assert allowed[1] in digests
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\x1b[31mred", "a\u202eb"])
def test_names_of_strangers_are_escaped(name: str) -> None:
    text = page.page(fleet_of(instance=name))
    assert name not in text
    assert "\x1b" not in text
    assert text.count("<script>") == 1


def test_a_long_name_can_be_broken_where_its_parts_end() -> None:
    assert "db-<wbr>east-<wbr>1" in page.page(fleet_of("db-east-1"))


def test_who_is_missing_is_on_the_page_with_the_reason() -> None:
    text = page.page(fleet({}, [Missing("db9", "unreachable: No route to host")]))
    assert "db9" in text
    assert "No route to host" in text.replace("<wbr>", "")


def test_many_instances_are_cut_off() -> None:
    many = [surveys.instance(f"db{number:03}", GIB, 10) for number in range(page.MOST_INSTANCES + 5)]
    text = page.page(fleet({"host": surveys.survey("host", many)}))
    assert 0 < len(set(re.findall(r"db\d{3}", text))) <= page.MOST_INSTANCES


@pytest.mark.parametrize(
    ("created_at", "shown"),
    [
        ("2026-11-27T08:12:31Z", "2026-11-27 08:12 UTC"),
        ("2026-11-27T08:12:31.5+00:00", "2026-11-27 08:12 UTC"),
        ("2026-11-27T08:12:31+01:00", "2026-11-27T08:12:31+01:00"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_moment_is_shown_in_utc_or_as_it_is(created_at: str, shown: str) -> None:
    assert page._moment(created_at) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0.0 %"), (0.04, "< 0.1 %"), (0.06, "0.1 %"), (12.34, "12.3 %")]
)
def test_a_small_share_is_not_shown_as_none(value: float, shown: str) -> None:
    assert page._percent(value) == shown


def test_without_jinja_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(Unavailable, match="filled in by Jinja, which cannot be imported here"):
        page.page(fleet_of())
