# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The story that the README tells, with its defaults: as `make deploy`, `validate` and `teardown` run it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from integration.hosts import Host, Run

GIB = 1 << 30


@dataclass
class Story:
    """The runs in their order, and what they had changed on the host after the first and after the last."""

    runs: dict[str, Run]
    changed_by_check: list[str]
    changed_in_the_end: list[str]


@pytest.fixture(scope="module")
def story(host: Host) -> Story:
    before = host.snapshot()
    runs = {"check": host.playbook("dbmem.mshare.deploy", "--check", "--diff")}
    changed_by_check = host.changed_since(before)
    for step in ("deploy", "deploy", "validate", "teardown", "teardown"):
        name = f"{step} again" if step in runs else step
        runs[name] = host.playbook(f"dbmem.mshare.{step}")
    return Story(runs, changed_by_check, host.changed_since(before))


def test_check_run_on_a_host_never_provisioned(story: Story) -> None:
    run = story.runs["check"].succeeded()
    assert run.recap["changed"] > 0
    assert story.changed_by_check == []


def test_check_run_announces_what_deploy_does(story: Story) -> None:
    announced, done = story.runs["check"], story.runs["deploy"].succeeded()
    assert announced.recap["changed"] == done.recap["changed"]


def test_deploy(story: Story) -> None:
    run = story.runs["deploy"].succeeded()
    region, clients = run["Create the region"]["region"], run["Attach the clients"]["clients"]
    assert (region["name"], region["mapped_bytes"], region["health"]) == ("sga", 300 * GIB, "healthy")
    assert (clients["requested"], clients["attached"], clients["errors"]) == (100, 100, [])


def test_deploy_shows_the_table(story: Story) -> None:
    shown = "\n".join(story.runs["deploy"]["Show"]["lines"])
    for words in ("100", "measured", "projected", "880.6 GiB", "1,500"):
        assert words in shown


@pytest.mark.parametrize("step", ["deploy again", "validate", "teardown again"])
def test_changes_nothing(story: Story, step: str) -> None:
    assert story.runs[step].succeeded().recap["changed"] == 0


def test_validate(story: Story) -> None:
    figures = story.runs["validate"].succeeded()["Measure"]
    assert figures["passed"] is True
    assert figures["reasons"] == []


def test_teardown_returns_to_the_beginning(story: Story) -> None:
    story.runs["teardown"].succeeded()
    assert story.changed_in_the_end == []
