# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module mshare_runtime and the role runtime build the preload on a host, once, and take it away."""

from __future__ import annotations

from typing import Any

import pytest

from integration.hosts import Host, Run, Task
from mshare.preload.settings import FILE_NAME

DIRECTORY = "/usr/local/lib/mshare"
LIBRARY = f"{DIRECTORY}/{FILE_NAME}"
BUILT = f"{LIBRARY} and {DIRECTORY}/mshare-client"
ROLE = {"ansible.builtin.include_role": {"name": "dbmem.mshare.runtime"}}


def runtime(name: str, **fields: Any) -> Task:
    return {"name": name, "dbmem.mshare.mshare_runtime": {"preload": True, **fields}, "ignore_errors": True}


def look(name: str) -> Task:
    return {"name": name, "ansible.builtin.stat": {"path": LIBRARY}}


# A host that has no compiler: the interpreter finds programs in this folder only.
WITHOUT_COMPILER = {"environment": {"PATH": "/run/empty"}}


@pytest.fixture(scope="module")
def run(host: Host) -> Run:
    host.do("mkdir", "/run/empty")
    return host.play(
        [
            runtime("announce without a compiler") | WITHOUT_COMPILER | {"check_mode": True},
            runtime("without a compiler") | WITHOUT_COMPILER,
            runtime("told only", require_imports=False) | WITHOUT_COMPILER,
            look("nothing built"),
            {
                "name": "a program of the cache",
                "ansible.builtin.command": "/usr/local/bin/mshare run --pages thp -- cat /proc/self/environ",
            },
            runtime("announce") | {"check_mode": True},
            runtime("build"),
            look("built"),
            runtime("again"),
            runtime("again without a compiler") | WITHOUT_COMPILER,
            look("as before"),
            {
                "name": "a program",
                "ansible.builtin.command": "/usr/local/bin/mshare run --pages thp -- cat /proc/self/environ",
            },
            {"name": "lose it", "ansible.builtin.file": {"path": LIBRARY, "state": "absent"}},
            runtime("build it again"),
            runtime("not asked for", preload=False),
            look("still there"),
            {**ROLE, "vars": {"mshare_runtime_preload": True, "mshare_runtime_packages_managed": False}},
            look("by the role"),
            {"name": "lose it too", "ansible.builtin.file": {"path": LIBRARY, "state": "absent"}},
            runtime("announce it from the controller", preload_from="controller")
            | WITHOUT_COMPILER
            | {"check_mode": True},
            runtime("from the controller", preload_from="controller") | WITHOUT_COMPILER,
            runtime("again from the controller", preload_from="controller") | WITHOUT_COMPILER,
            look("built elsewhere"),
            {
                "name": "a program of it",
                "ansible.builtin.command": "/usr/local/bin/mshare run --pages thp -- cat /proc/self/environ",
            },
            {"name": "remove it all", "dbmem.mshare.mshare_runtime": {"state": "absent"}},
            runtime("announce it from anywhere", preload_from="any")
            | WITHOUT_COMPILER
            | {"check_mode": True, "diff": True},
            # Packages are somebody else's here, so what lacks a compiler gets none, and is no error.
            {
                "block": [ROLE],
                "vars": {"mshare_runtime_preload": True, "mshare_runtime_packages_managed": False},
                **WITHOUT_COMPILER,
            },
            look("by the role without a compiler"),
            runtime("again from anywhere", preload_from="any") | WITHOUT_COMPILER,
            {"name": "lose it here", "ansible.builtin.file": {"path": LIBRARY, "state": "absent"}},
            runtime("from anywhere, with a compiler", preload_from="any"),
            {"name": "remove", "dbmem.mshare.mshare_runtime": {"state": "absent"}},
            {"name": "all gone", "ansible.builtin.stat": {"path": DIRECTORY}},
            {"name": "cache gone", "ansible.builtin.stat": {"path": "/var/cache/mshare"}},
        ]
    ).succeeded()


def test_check_mode_says_the_same(run: Run) -> None:
    assert run["announce"]["actions"] == run["build"]["actions"] == [f"build {BUILT}"]


def test_it_is_built_once(run: Run) -> None:
    assert not run["again"]["changed"]
    built, before = run["built"]["stat"], run["as before"]["stat"]
    assert built["mtime"] == before["mtime"]
    assert built["mode"] == "0755"


def test_what_is_built_needs_no_compiler(run: Run) -> None:
    assert run["again without a compiler"].status == "ok"
    assert not run["again without a compiler"]["missing_compiler"]


def test_no_compiler(run: Run) -> None:
    refused = run["without a compiler"]
    assert refused["error_kind"] == "unavailable"
    assert "needs a C compiler, but this host has none" in refused["msg"]
    assert "install gcc and libc6-dev (Debian)" in refused["msg"]
    assert run["announce without a compiler"]["missing_compiler"]
    told = run["told only"]
    assert told["missing_compiler"]
    assert told["changed"], "the library itself is installed"
    assert not run["nothing built"]["stat"]["exists"]


def test_a_host_without_a_compiler_gets_it_from_the_controller(run: Run) -> None:
    """Exactly that announces the check run; the second time nothing is to be done."""
    told, done = run["announce it from the controller"], run["from the controller"]
    assert told["actions"] == done["actions"] == [f"install, built elsewhere, {BUILT}"]
    assert not done["missing_compiler"]
    assert not run["again from the controller"]["changed"]
    assert run["built elsewhere"]["stat"]["mode"] == "0755"
    assert f"LD_PRELOAD={LIBRARY}" in run["a program of it"]["stdout"]


def test_a_host_without_a_compiler_gets_it_from_the_controller_where_packages_are_not_managed(
    run: Run,
) -> None:
    """The role: what a check run announces, it does. With a compiler, it is built on the host."""
    told = run["announce it from anywhere"]["actions"]
    assert f"install, built elsewhere, {BUILT}" in told
    assert run["by the role without a compiler"]["stat"]["exists"]
    assert not run["again from anywhere"]["changed"]
    assert run["from anywhere, with a compiler"]["actions"] == [f"build {BUILT}"]


def test_mshare_run_takes_it(run: Run) -> None:
    assert f"LD_PRELOAD={LIBRARY}" in run["a program"]["stdout"]


def test_a_lost_library_is_built_again(run: Run) -> None:
    assert run["build it again"]["actions"] == [f"build {BUILT}"]


def test_it_stays_for_whoever_is_started_with_it(run: Run) -> None:
    assert not run["not asked for"]["changed"]
    assert run["still there"]["stat"]["exists"]


def test_the_role(run: Run) -> None:
    assert run["by the role"]["stat"]["exists"]


def test_nothing_is_left(run: Run) -> None:
    assert "/var/cache/mshare/libmshare-preload-" in run["a program of the cache"]["stdout"]
    assert not run["all gone"]["stat"]["exists"]
    assert not run["cache gone"]["stat"]["exists"]
