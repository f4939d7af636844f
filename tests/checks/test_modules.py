# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module is documented completely, as Ansible itself reads it (with its fragments)."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from typing import Any

import pytest

from checks.layout import COLLECTION, ROOT, load_yaml, modules

NAMES = [path.stem for path in modules()]
ATTRIBUTES = {"async", "check_mode", "diff_mode", "idempotent", "platform"}


@cache
def documentation() -> dict[str, Any]:
    """What ansible-doc knows about all modules; one call, because each costs a second."""
    command = ["ansible-doc", "--json", *(f"{COLLECTION}.{name}" for name in NAMES)]
    # From a configuration of the user's own, another copy of the collection might be read.
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv" / "collections")}
    result = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def texts(name: str) -> dict[str, Any]:
    return documentation()[f"{COLLECTION}.{name}"]


def undocumented_results(results: dict[str, Any]) -> list[str]:
    """The names of results, nested ones included, that lack what a reader needs."""
    lacking = []
    for name, result in results.items():
        needed = {"description", "type"} | (set() if "contains" in result else {"sample"})
        if needed - result.keys():
            lacking.append(name)
        lacking += [f"{name}.{inner}" for inner in undocumented_results(result.get("contains", {}))]
    return lacking


def test_head(texts: dict[str, Any]) -> None:
    assert {"author", "description", "short_description", "seealso"} <= texts["doc"].keys()


def test_attributes(texts: dict[str, Any]) -> None:
    attributes = texts["doc"].get("attributes", {})
    assert attributes.keys() >= ATTRIBUTES
    assert [key for key, value in attributes.items() if not value.get("support")] == []


def test_examples_use_the_full_name(name: str, texts: dict[str, Any]) -> None:
    assert f"{COLLECTION}.{name}:" in (texts["examples"] or "")


def test_results(texts: dict[str, Any]) -> None:
    results = texts["return"]
    assert results
    assert undocumented_results(results) == []
    assert [name for name, result in results.items() if "returned" not in result] == []


def test_action_group_has_the_modules_that_share_options() -> None:
    # A default for the group reaches every module in it: one that has not the option would refuse to run.
    group = load_yaml(ROOT / "meta" / "runtime.yml")["action_groups"]["mshare"]
    sharing = (
        name
        for name in NAMES
        if {"backend", "root"} <= documentation()[f"{COLLECTION}.{name}"]["doc"]["options"].keys()
    )
    assert group == sorted(sharing)


def test_every_module_that_is_sent_has_a_sentence_for_an_old_python() -> None:
    sent = {path.stem for path in modules() if "AnsibleModule(" in path.read_text()}
    assert sent <= {path.stem for path in (ROOT / "plugins" / "action").glob("*.py")}
