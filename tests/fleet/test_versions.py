# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another version of the collection comes to hosts whose regions live, and goes again."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.world import MOUNT, RUNTIME, SMALL, World, clients, region
from integration.hosts import REPOSITORY
from mshare import __version__
from mshare.services.status_file import SCHEMA_VERSION

HOSTS = 2
OTHER = "7.8.9"
PARTS = ("galaxy.yml", "lib", "meta", "playbooks", "plugins", "roles")
BOTH = (region("region"), clients("clients"))
REGION, CLIENTS = "Create the region", "Attach the clients"


def variant(folder: Path, schema: int) -> Path:
    """The collection as another version, whose status files have a schema, as a path of collections."""
    tree = folder / "ansible_collections" / "dbmem" / "mshare"
    listed = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run([*listed, *PARTS], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    for name in done.stdout.splitlines():
        if (REPOSITORY / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tree / name, follow_symlinks=False)
    for name, pattern, text in (
        ("galaxy.yml", r"^version: .*", f"version: {OTHER}"),
        ("lib/mshare/__init__.py", r'^__version__ = ".*"', f'__version__ = "{OTHER}"'),
        ("lib/mshare/services/status_file.py", r"^SCHEMA_VERSION = .*", f"SCHEMA_VERSION = {schema}"),
    ):
        changed, count = re.subn(pattern, text, (tree / name).read_text(), flags=re.MULTILINE)
        assert count == 1, name
        (tree / name).write_text(changed)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version of the collection, which understands this one's status files."""
    return variant(tmp_path_factory.mktemp("other"), SCHEMA_VERSION)


@pytest.fixture(scope="module", autouse=True)
def left_as_it_was(hosts: World) -> Iterator[None]:
    before = hosts.snapshots()
    yield
    assert hosts.changed_since(before) == {}


def pids(hosts: World, number: int) -> tuple[Any, ...]:
    """The owner, the launcher, the clients."""
    launcher = hosts.status(number, "clients")
    return hosts.status(number, "owner")["pid"], launcher["pid"], launcher["pids"]


def test_up_and_down_with_a_region_that_lives(hosts: World, other: Path) -> None:
    hosts.deploy(on=[0]).succeeded()
    before = pids(hosts, 0)
    up = hosts.deploy(on=[0], collections=other).succeeded()
    assert hosts.do(0, "mshare --version") == f"mshare {OTHER}"
    # What runs goes on, and which version that is, is said.
    assert pids(hosts, 0) == before
    differ = (
        f"runs version {__version__} of the library, and {OTHER} is installed; it keeps using that version"
    )
    assert [text for task in (REGION, CLIENTS) for text in up[task]["warnings"]] == [
        f"the owner of region sga {differ} until replace_outdated: true",
        f"the launcher of region sga {differ} until restart_outdated: true",
    ]
    assert up[REGION]["region"]["owner"]["version"] == up[CLIENTS]["clients"]["version"] == __version__
    again = hosts.play(0, RUNTIME, MOUNT, *BOTH, collections=other).succeeded()
    assert again.recap["changed"] == 0
    assert again["region"]["warnings"] == up[REGION]["warnings"]
    down = hosts.play(0, RUNTIME, MOUNT, *BOTH).succeeded()
    assert {one.task for one in down.results if one["changed"]} == {"runtime"}
    assert hosts.do(0, "mshare --version") == f"mshare {__version__}"
    assert pids(hosts, 0) == before
    assert "keeps using that version" not in down.output


def test_what_another_version_runs_is_replaced_when_asked(hosts: World, other: Path) -> None:
    owner, launcher, __ = pids(hosts, 0)
    restart = clients("restart", restart_outdated=True)
    run = hosts.play(0, RUNTIME, restart, {**restart, "name": "again"}, collections=other).succeeded()
    differ = f"runs version {__version__} of the library, and {OTHER} is installed"
    assert run["restart"]["actions"][0] == f"stop the clients of region sga, whose launcher {differ}"
    assert run["again"]["changed"] is False
    assert (pids(hosts, 0)[0] == owner, pids(hosts, 0)[1] == launcher) == (True, False)
    run = hosts.play(
        0,
        region("refuse", replace_outdated=True),
        region("replace", replace_outdated=True, force=True),
        clients("attach"),
        region("again", replace_outdated=True),
        collections=other,
    ).succeeded()
    assert "attached clients" in run["refuse"]["msg"]
    assert run["replace"]["actions"][0] == f"end region sga, whose owner {differ}"
    assert run["attach"]["clients"]["attached"] == SMALL["mshare_clients_count"]
    assert run["again"]["changed"] is False
    # The older version takes away what the newer one made.
    hosts.teardown(on=[0]).succeeded()


def test_a_version_that_writes_other_status_files_is_left_alone(hosts: World, tmp_path: Path) -> None:
    newer = variant(tmp_path, SCHEMA_VERSION + 1)
    hosts.play(1, RUNTIME, MOUNT, *BOTH, collections=newer).succeeded()
    before = hosts.do(1, "cat /run/mshare/run-msharefs/*.json")
    sentence = (
        f"of version {OTHER} of the library in schema {SCHEMA_VERSION + 1}, and this is version"
        f" {__version__}, which reads schema {SCHEMA_VERSION} only; nothing is changed: use version {OTHER}"
    )
    run = hosts.play(1, RUNTIME, region("region", replace_stale=True), clients("clients")).succeeded()
    for task in ("region", "clients"):
        assert sentence in run[task]["msg"]
        assert run[task]["error_kind"] == "conflict"
    assert sentence in hosts.teardown(on=[1]).said
    # A look tells as much as it knows; the command line is this version's by now.
    found = hosts.region(1)
    assert found is not None
    assert (found["health"], found["owner"]["version"]) == ("unknown", OTHER)
    assert found["clients"]["attached"] is None
    assert sentence in found["owner"]["error"]
    assert sentence in hosts.do(1, "mshare clients status sga")
    assert "unknown" in hosts.do(1, "mshare list")
    assert hosts.do(1, "cat /run/mshare/run-msharefs/*.json") == before
    assert hosts.play(1, *BOTH, collections=newer).succeeded().recap["changed"] == 0
    hosts.teardown(on=[1], collections=newer).succeeded()
