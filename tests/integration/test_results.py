# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules return is what their documentation says, and what an action group gives reaches them."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import yaml

from integration.hosts import REPOSITORY, Host, Run, Task

ROOT = "/run/group"
# When a result is there, in the words of the documentation.
ON_SUCCESS = {
    *(
        "always",
        "success",
        "success, and failure if O(regions) was used",
        "success, and failure if O(clients) was used",
        "when clients run",
    ),
    *("success with O(name)", "success with O(region)", "when clients run, with O(region)"),
}
ON_FAILURE = {"failure"}
IN_LIST = {
    *(
        "always",
        "success",
        "success, and failure if O(regions) was used",
        "success, and failure if O(clients) was used",
        "when clients run",
    ),
    "when clients run, with O(regions)",
}


def documented(module: str) -> dict[str, Any]:
    """The results in a module's RETURN."""
    tree = ast.parse((REPOSITORY / f"plugins/modules/mshare_{module}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "RETURN":
            return yaml.safe_load(ast.literal_eval(node.value))
    raise LookupError(module)


def names(results: dict[str, Any], when: set[str]) -> set[str]:
    return {name for name, result in results.items() if result["returned"] in when}


def task(module: str, /, **fields: Any) -> Task:
    return {"name": module, f"dbmem.mshare.mshare_{module}": fields}


def listed(module: str, /, **fields: Any) -> Task:
    return {**task(module, **fields), "name": f"{module} in a list"}


def refused(module: str, /, **fields: Any) -> Task:
    return {**task(module, **fields), "name": f"{module} refused", "ignore_errors": True}


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    """None of the tasks says where the msharefs is: the action group does."""
    return host.play(
        [
            task("runtime"),
            task("mount"),
            task("region", name="sga", size="64MiB", pattern=True),
            task("clients", region="sga", count=2),
            task("info"),
            task("savings", region="sga", span="64MiB"),
            listed("region", regions=[{"name": "sga", "size": "64MiB"}], pattern=True),
            listed("clients", clients=[{"region": "sga"}], count=2),
            listed("savings", regions=["sga"], span="64MiB"),
            refused("runtime", python="/no/python"),
            refused("mount", mode="rwx"),
            refused("region", name="..", size="64MiB"),
            refused("clients", region="sga", count=0),
            refused("savings", region=".."),
            refused("savings", region="sga", span="64MiB", min_saving_percent=99)
            | {"name": "savings missed"},
        ],
        module_defaults={"group/dbmem.mshare.mshare": {"root": ROOT, "backend": "simulated"}},
    ).succeeded()


@pytest.mark.parametrize("module", ["runtime", "mount", "region", "clients", "info", "savings"])
def test_success_returns_what_is_documented(run: Run, module: str) -> None:
    assert run[module].returned == names(documented(module), ON_SUCCESS)


@pytest.mark.parametrize("module", ["runtime", "mount", "region", "clients", "savings"])
def test_failure_returns_what_is_documented(run: Run, module: str) -> None:
    assert run[f"{module} refused"].returned == names(documented(module), ON_FAILURE)


@pytest.mark.parametrize("module", ["region", "clients", "savings"])
def test_a_list_returns_what_is_documented(run: Run, module: str) -> None:
    assert run[f"{module} in a list"].returned == names(documented(module), IN_LIST)


def test_a_missed_threshold_returns_the_figures_too(run: Run) -> None:
    missed = run["savings missed"]
    assert missed["error_kind"] == "verdict_failed"
    assert missed["passed"] is False
    assert missed.returned == names(documented("savings"), ON_SUCCESS | ON_FAILURE)
    assert missed["reasons"][0] in missed["msg"]


def test_results_inside_results(run: Run) -> None:
    inner = documented("clients")["clients"]["contains"]
    assert inner.keys() <= run["clients"]["clients"].keys()


@pytest.mark.parametrize("module", ["mount", "info"])
def test_the_action_group_says_where(run: Run, module: str) -> None:
    assert run[module]["root"] == ROOT


def test_every_figure_says_what_it_is(run: Run) -> None:
    for name, figure in run["savings"]["figures"].items():
        assert {"value", "unit", "kind", "how"} <= figure.keys(), name
        assert figure["kind"] in ("measured", "modelled", "projected"), name


def test_info_gives_reasons_and_facts(run: Run) -> None:
    info = run["info"]
    assert (info["supported"], info["backend"], info["mounted"]) == (True, "simulated", True)
    assert info["reasons"]
    (mount,) = info["mounts"]
    assert (mount["root"], mount["generation"], mount["alignment_bytes"]) == (ROOT, "2025-08", 1 << 39)
    (region,) = info["regions"]
    assert (region["health"], region["clients"]["attached"]) == ("healthy", 2)
