# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library on a host: what is there is found with one command, and what is not is put right."""

from __future__ import annotations

import pytest

from integration.hosts import Host, Run, Task

FILE = "/usr/local/lib/mshare/mshare/units.py"
ELSEWHERE = {"directory": "/run/elsewhere/library", "executable": "/run/elsewhere/mshare"}


def runtime(name: str, **fields: object) -> Task:
    return {"name": name, "dbmem.mshare.mshare_runtime": fields, "diff": True}


def spoil(name: str, command: str) -> Task:
    return {"name": name, "ansible.builtin.command": command}


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    return host.play(
        [
            runtime("announce") | {"check_mode": True},
            runtime("install"),
            runtime("again"),
            runtime("announce again") | {"check_mode": True},
            spoil("change a file", f"sed -i s/KIB/KiB/ {FILE}"),
            runtime("put right"),
            spoil("lose a file", f"rm {FILE}"),
            runtime("put back"),
            spoil("lose the manifest", "rm /usr/local/lib/mshare/manifest.json"),
            runtime("list again"),
            runtime("elsewhere", **ELSEWHERE),
            runtime("elsewhere again", **ELSEWHERE),
            runtime("another interpreter", python="/no/python") | {"ignore_errors": True},
            runtime("unknown", colour="red") | {"ignore_errors": True},
            runtime("remove", state="absent"),
            runtime("remove again", state="absent"),
            runtime("remove elsewhere", state="absent", **ELSEWHERE),
        ]
    ).succeeded()


@pytest.mark.parametrize(
    "name", ["announce", "install", "put right", "put back", "list again", "elsewhere", "remove"]
)
def test_changes(run: Run, name: str) -> None:
    assert run[name]["changed"] is True


@pytest.mark.parametrize("name", ["again", "announce again", "elsewhere again"])
def test_what_is_there_is_left_alone(run: Run, name: str) -> None:
    found, installed = run[name], run["install"]
    assert (found["changed"], found["actions"], found["missing_imports"]) == (False, [], [])
    assert found["version"] == installed["version"]
    # The whole library was not sent: a module's result would have the arguments it was called with.
    assert "invocation" not in found.fields
    assert found["diff"]["before"] == found["diff"]["after"]


def test_what_is_compared_is_what_is_installed(run: Run) -> None:
    assert run["again"]["diff"]["before"] == run["install"]["diff"]["after"]


def test_what_is_wrong_is_not_taken_for_installed(run: Run) -> None:
    assert "/no/python cannot be run" in run["another interpreter"]["msg"]
    assert "Unsupported parameters" in run["unknown"]["msg"]


def test_a_library_that_does_not_run(host: Host, run: Run) -> None:
    """The interpreter has all that is imported, and still does not run the command line."""
    host.do("mkdir", "-p", "/run/broken")
    path = host.inside("/run/broken/python")
    path.write_text('#!/bin/sh\ncase "$*" in *find_spec*) ;; *) echo broken; exit 1 ;; esac\n')
    path.chmod(0o755)
    place = {
        "directory": "/run/broken/library",
        "executable": "/run/broken/mshare",
        "python": "/run/broken/python",
    }
    failed = host.play([runtime("install", **place)])
    assert failed.exit_code != 0
    assert "`/run/broken/mshare --version` should print 0.1.0, but printed broken" in failed.said
