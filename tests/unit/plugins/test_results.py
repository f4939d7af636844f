# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library's answers as results of modules, and the diff that people read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.dbmem.mshare.plugins.module_utils import _results
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import ABSENT, Outcome
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError

PRESENT = {"state": "present", "size": 1 << 30, "mode": "0600", "before": ["db.service"], "group": None}


@dataclass(frozen=True)
class Facts:
    health: str


MADE = Outcome(
    True, ["create region a"], ABSENT, PRESENT, facts=Facts("healthy"), warnings=["no swap"]
).to_dict("region")
THERE = Outcome(False, [], PRESENT, PRESENT, facts=Facts("healthy"), warnings=["no swap"]).to_dict("region")


def test_one_region():
    result = _results.single("name", "region", "a", MADE)
    assert result == {
        "changed": True,
        "actions": ["create region a"],
        "warnings": ["no swap"],
        "boot": {},
        "region": {"health": "healthy"},
        "regions": [
            {
                "name": "a",
                "changed": True,
                "actions": ["create region a"],
                "region": {"health": "healthy"},
                "boot": {},
            }
        ],
        "diff": {
            "before_header": "region a",
            "after_header": "region a",
            "before": "state: absent\n",
            "after": (
                'state: present\nbefore:\n  - db.service\ngroup: null\nmode: "0600"\nsize: 1073741824\n'
            ),
        },
    }


def test_several_regions_have_a_diff_each_and_a_warning_once():
    result = _results.several("name", "region", {"a": MADE, "b": THERE})
    assert [entry["changed"] for entry in result["regions"]] == [True, False]
    assert [pair["after_header"] for pair in result["diff"]] == ["region a", "region b"]
    assert result["diff"][1]["before"] == result["diff"][1]["after"]
    assert result["warnings"] == ["no swap"]
    assert result["changed"] is True


def test_clients_are_called_so_in_the_diff():
    answer = {**THERE, "clients": {}}
    assert _results.single("region", "clients", "a", answer)["diff"]["before_header"] == "clients of region a"


def test_files_have_a_pair_each():
    before = {"/etc/a": ["x", ""], "/etc/b": ABSENT}
    after = {"/etc/a": ["y", ""], "/etc/b": ["new", ""]}
    pairs = _results.diff("PostgreSQL", before, after)
    assert [(pair["before_header"], pair["before"], pair["after"]) for pair in pairs] == [
        ("/etc/a", "x\n", "y\n"),
        ("/etc/b", "", "new\n"),
    ]


def test_nothing_on_either_side_is_a_pair_of_empty_texts():
    (pair,) = _results.diff("PostgreSQL", {}, {})
    assert (pair["before"], pair["after"]) == ("", "")


def test_an_answer_that_lacks_a_field_is_refused_by_its_name():
    answer = {key: value for key, value in MADE.items() if key != "boot"}
    with pytest.raises(MshareError, match="the answer of mshare has no field boot"):
        _results.single("name", "region", "a", answer)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
)


@given(
    st.dictionaries(st.sampled_from(["state", "size", "mappings"]), scalars | st.lists(scalars, max_size=3))
)
def test_what_people_read_is_what_it_was(fields):
    assert (yaml.safe_load(_results.readable(fields)) or {}) == fields
