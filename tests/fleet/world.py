# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts reached by ssh, the controllers that deploy to them, and what is found on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.hosts import COLLECTIONS, Run, Running, Task, differences, eventually
from integration.hosts import HERE as INTEGRATION
from rig.hosts.base import LIBRARY, Kind
from rig.hosts.fleet import Fleet, running

HERE = Path(__file__).parent
STATE = "/run/mshare/run-msharefs"
SMALL = {"mshare_region_size": "64MiB", "mshare_clients_count": 3}
"""So that twenty hosts fit on one machine."""
_PROGRAMS = Path(sys.executable).parent


def region(task: str, **fields: Any) -> Task:
    """A task that makes the region as the playbook does, but for some fields."""
    made = {"name": "sga", "size": "64MiB", "group": "mshare", "mode": "0660"}
    made |= {"overcommit": True, "pattern": True}
    return {"name": task, "dbmem.mshare.mshare_region": {**made, **fields}, "ignore_errors": True}


def clients(task: str, **fields: Any) -> Task:
    """A task that attaches the clients, likewise."""
    wanted = {"region": "sga", "count": SMALL["mshare_clients_count"], **fields}
    return {"name": task, "dbmem.mshare.mshare_clients": wanted, "ignore_errors": True}


RUNTIME: Task = {"name": "runtime", "dbmem.mshare.mshare_runtime": {}}
MOUNT: Task = {
    "name": "mount",
    "dbmem.mshare.mshare_mount": {"mode": "1770", "group": "mshare", "create_group": True},
}
INFO: Task = {"name": "look", "dbmem.mshare.mshare_info": {}}


def name(number: int) -> str:
    """The name of the host of a number, counted from 0."""
    return f"host{number + 1}"


class World:
    """Hosts, and a controller with an inventory of them."""

    def __init__(self, fleet: Fleet, scratch: Path, count: int) -> None:
        self.fleet, self.scratch, self.count = fleet, scratch, count
        self._runs = 0

    # -- what a controller does

    def playbook(self, playbook: str, *flags: str, **how: Any) -> Run:
        """Run a playbook, by its file or its full name, on all hosts unless it is limited to some."""
        return self.start_playbook(playbook, *flags, **how).finish()

    def start_playbook(
        self,
        playbook: str,
        *flags: str,
        on: Sequence[int] | None = None,
        programs: Path = _PROGRAMS,
        collections: Path = COLLECTIONS,
        environment: dict[str, str] | None = None,
        **variables: Any,
    ) -> Running:
        self._runs += 1
        record = self.scratch / f"run-{self._runs}.jsonl"
        hosts = "all" if on is None else ",".join(map(name, on))
        words = [
            *(str(programs / "ansible-playbook"), playbook, "-i", str(self.fleet.inventory)),
            *("-e", json.dumps({"mshare_hosts": hosts, **SMALL, **variables}), *flags),
        ]
        settings = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CALLBACK_PLUGINS": str(INTEGRATION / "plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_INJECT_FACT_VARS": "False",
            "ANSIBLE_LOCAL_TEMP": str(self.scratch / "ansible"),
            "ANSIBLE_NOCOWS": "True",
            "ANSIBLE_PIPELINING": "True",
            "RECORD_TO": str(record),
            **(environment or {}),
        }
        return Running(words, record, settings)

    def play(
        self,
        hosts: int | Sequence[int] | None,
        *tasks: Task,
        flags: Sequence[str] = (),
        collections: Path = COLLECTIONS,
        **keys: Any,
    ) -> Run:
        """Run a play of a user's own, on a host, on several or (None) on all; keys are those of the play."""
        path = self.scratch / f"play-{self._runs + 1}.json"
        numbers = [hosts] if isinstance(hosts, int) else hosts or range(self.count)
        play = {"hosts": [name(number) for number in numbers], "gather_facts": False, **keys}
        path.write_text(json.dumps([{**play, "tasks": tasks}]))
        return self.playbook(str(path), *flags, collections=collections)

    def deploy(self, *flags: str, **how: Any) -> Run:
        return self.playbook("dbmem.mshare.deploy", *flags, **how)

    def teardown(self, *flags: str, **how: Any) -> Run:
        return self.playbook("dbmem.mshare.teardown", *flags, **how)

    # -- what is done on a host, and found there

    def do(self, number: int, command: str) -> str:
        """Run a shell command that has to succeed on a host; returns what it said."""
        done = self._begin(number, "sh", "-c", command)
        said = done.communicate()[0]
        assert done.returncode == 0, f"{command}\n{said}"
        return said.strip()

    def _begin(self, number: int, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.fleet.ssh_command(number, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_program(self, number: int, program: str, *words: str) -> subprocess.Popen[str]:
        """Begin a program of this folder's on a host."""
        return self._begin(number, "python3", "-c", (HERE / program).read_text(), *words)

    def snapshots(self, *numbers: int) -> list[list[str]]:
        """Every process, mount, file and group of some hosts or all, in lines that can be compared."""
        running = [self.start_program(number, "snapshot.py") for number in numbers or range(self.count)]
        found = [one.communicate()[0].splitlines() for one in running]
        for one, lines in zip(running, found):
            assert one.returncode == 0, "\n".join(lines[-5:])
        # What the shell says that ssh runs its ProxyCommand with is none of the host's.
        kinds = ("process ", "mount ", "file ", "group ")
        return [[line for line in lines if line.startswith(kinds)] for lines in found]

    def snapshot(self, number: int) -> list[str]:
        (found,) = self.snapshots(number)
        return found

    def changed_since(self, before: list[list[str]]) -> dict[str, list[str]]:
        """By host, what a snapshot does not show any more, and what it did not show yet."""
        pairs = zip(before, self.snapshots())
        found = {name(number): differences(*pair) for number, pair in enumerate(pairs)}
        return {host: lines for host, lines in found.items() if lines}

    def status(self, number: int, role: str) -> dict[str, Any]:
        """What an owner or a launcher wrote down of itself."""
        fields: dict[str, Any] = json.loads(self.do(number, f"cat {STATE}/sga.{role}.json"))
        return fields

    def region(self, number: int) -> dict[str, Any] | None:
        """The region sga as the host's own command line lists it; None where there is none."""
        regions = json.loads(self.do(number, "mshare list --json"))["regions"]
        return next((region for region in regions if region["name"] == "sga"), None)

    def processes(self, number: int) -> list[str]:
        """What runs of ours on a host."""
        return [line for line in self.snapshot(number) if line.startswith("process") and "mshare" in line]

    def dead(self, number: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status(number, "clients")["dead"]
        return found

    def eventually(self, condition: Any, what: str) -> None:
        eventually(condition, what)


@contextmanager
def world(scratch: Path, count: int, kind: Kind = LIBRARY) -> Iterator[World]:
    """Hosts on which nothing of ours ever was; they end with the block."""
    with running("fleet", count, kind) as fleet:
        yield World(fleet, scratch, count)
