# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples, as they are, over real ssh hosts; only the sizes are a test's.

examples/postgresql.yml runs in tests/vm, examples/molecule in tests/molecule.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.hosts import COLLECTIONS, REPOSITORY
from rig.hosts.base import LIBRARY
from rig.hosts.fleet import Fleet, missing, running

EXAMPLES = REPOSITORY / "examples"
HOSTS = ("host1", "host2", "host3")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    if reason := missing():
        pytest.skip(reason)
    with running("examples", len(HOSTS), LIBRARY) as fleet:
        yield fleet


def play(fleet: Fleet, inventory: Path, playbook: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_INJECT_FACT_VARS": "False",
        "ANSIBLE_NOCOWS": "True",
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
        "PATH": os.environ["PATH"],
    }
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [program, "-i", str(fleet.inventory), "-i", str(inventory), playbook, *flags],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    return done


def databases(folder: Path, hosts: dict[str, dict[str, Any]], **variables: Any) -> Path:
    """An inventory of the group that the examples are for."""
    path = folder / "databases.json"
    path.write_text(json.dumps({"databases": {"hosts": hosts, "vars": variables}}))
    return path


def on(fleet: Fleet, host: str, command: str) -> subprocess.CompletedProcess[str]:
    words = fleet.ssh_command(HOSTS.index(host), "sh", "-c", command)
    return subprocess.run(words, capture_output=True, text=True, check=False)


def regions(fleet: Fleet, host: str) -> dict[str, Any]:
    """A host's regions by their name, as its command line lists them; none where that is not installed."""
    listed = on(fleet, host, "test ! -e /usr/local/bin/mshare || mshare list --json")
    assert listed.returncode == 0, listed.stderr
    return {region["name"]: region for region in json.loads(listed.stdout or '{"regions": []}')["regions"]}


def test_a_failing_host_gets_back_what_it_had_and_ends_the_roll_out(fleet: Fleet, tmp_path: Path) -> None:
    broken = {"mshare_clients_command": ["/bin/false"]}
    hosts: dict[str, dict[str, Any]] = {"host1": {}, "host2": broken, "host3": {}}
    inventory = databases(tmp_path, hosts, mshare_region_size="64MiB", mshare_clients_count=3)
    done = play(fleet, inventory, str(EXAMPLES / "rolling.yml"))
    assert done.returncode != 0
    assert "host2 runs what it ran before: the clients of region sga did not start" in done.stdout
    assert regions(fleet, "host1")["sga"]["clients"]["attached"] == 3
    assert regions(fleet, "host2") == {}
    assert on(fleet, "host2", "grep mshare-simulated /proc/self/mountinfo; ls -A /run/mshare").stdout == ""
    assert on(fleet, "host3", "ls /usr/local/bin/mshare").returncode != 0

    # Mended, the rest is done, and the host that has it already does not change.
    mended = databases(
        tmp_path, {host: {} for host in HOSTS}, mshare_region_size="64MiB", mshare_clients_count=3
    )
    done = play(fleet, mended, str(EXAMPLES / "rolling.yml"))
    assert done.returncode == 0
    assert [regions(fleet, host)["sga"]["clients"]["attached"] for host in HOSTS] == [3, 3, 3]
    recap = {line.split()[0]: line.split() for line in done.stdout.splitlines() if " unreachable=" in line}
    assert "changed=0" in recap["host1"]
    assert "changed=0" not in recap["host3"]


def smaller(value: Any) -> Any:
    """The same wishes in MiB, with limits that have room for what an owner itself needs."""
    if isinstance(value, dict):
        return {key: "1GiB" if key == "memory_max" else smaller(item) for key, item in value.items()}
    if isinstance(value, list):
        return [smaller(item) for item in value]
    return value.replace("GiB", "MiB") if isinstance(value, str) else value


def test_many_regions_are_one_call_per_host(fleet: Fleet, tmp_path: Path) -> None:
    example = yaml.safe_load((EXAMPLES / "many-regions" / "inventory.yml").read_text())["databases"]
    # Theirs by the names of ours; the second one's host has a list of its own.
    theirs = {"host1": "db1.example.com", "host3": "db3.example.com"}
    hosts = {host: smaller(example["hosts"][name] or {}) for host, name in theirs.items()}
    inventory = databases(tmp_path, hosts, **smaller(example["vars"]))
    made = on(
        fleet, "host1", "mkdir /pmem; cd /pmem; truncate -s 64M orders.dat; truncate -s 16M customers.dat"
    )
    assert made.returncode == 0, made.stderr

    done = play(fleet, inventory, "dbmem.mshare.deploy", "-e", "mshare_hosts=databases")
    assert done.returncode == 0
    assert done.stdout.count("TASK [dbmem.mshare.region : Create the region]") == 1
    for host, names in (("host1", ["ledger", "sales", "tables"]), ("host3", ["archive"])):
        found = regions(fleet, host)
        assert sorted(found) == names
        assert {one["clients"]["attached"] for one in found.values()} == {3}

    done = play(fleet, inventory, "dbmem.mshare.teardown", "-e", "mshare_hosts=databases")
    assert done.returncode == 0
    assert on(fleet, "host1", "ls -d /run/msharefs /etc/mshare /usr/local/bin/mshare").stdout == ""
