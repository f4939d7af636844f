# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients, many regions, many rounds: afterwards the machine is as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from prove import operations
from prove.machine import Machine, State, new_machine
from prove.tally import Row

CLIENTS = 1500
REGIONS = 100
PLAYBOOKS = 3
_ROUNDS = Path(__file__).with_name("run_rounds.py")


def run(count: int) -> Iterator[Row]:
    """Everything, with so many rounds."""
    with new_machine() as machine:
        yield many_clients(machine, CLIENTS)
        yield many_regions(machine, REGIONS)
        yield rounds(machine, count)
        yield playbooks(machine, PLAYBOOKS)


def _ok(machine: Machine, *command: str) -> list[str]:
    done = machine.run(*command)
    return [] if done.code == 0 else [f"`{operations.shown(command)}`: {done.errors or done.output}"]


def _left(machine: Machine, clean: State) -> list[str]:
    machine.quiet(clean.processes)
    return machine.state().differences(clean)


def many_clients(machine: Machine, count: int) -> Row:
    row = Row("scale", f"clients attached to one region, then stopped: {count:,}")
    clean = machine.state()
    found = [text for command in (operations.MOUNT, operations.CREATE) for text in _ok(machine, *command)]
    start = ("mshare", "clients", "start", "sga", "--span", "2MiB", "--require-all", "--count", str(count))
    found += _ok(machine, *start)
    seen = machine.run("mshare", "--json", "clients", "status", "sga")
    attached = json.loads(seen.output).get("clients", {}).get("attached") if seen.code == 0 else None
    if attached != count:
        found.append(f"{attached} of {count} clients are attached")
    for command in (("mshare", "clients", "stop", "sga"), ("mshare", "rm", "sga"), ("mshare", "umount")):
        found += _ok(machine, *command)
    found += _left(machine, clean)
    row.injected, row.failed, row.differs = count, min(count, len(found)), found
    return row


def many_regions(machine: Machine, count: int) -> Row:
    row = Row("scale", f"regions at the same time, then removed: {count:,}")
    clean = machine.state()
    found = _ok(machine, *operations.MOUNT)
    names = [f"r{number}" for number in range(count)]
    for name in names:
        found += _ok(machine, "mshare", "create", name, "--backend", "simulated", "--size", "2MiB")
    seen = machine.run("mshare", "--json", "list")
    regions = json.loads(seen.output)["regions"] if seen.code == 0 else []
    healthy = {region["name"] for region in regions if region["health"] == "healthy"}
    found += [f"region {name} is not healthy" for name in names if name not in healthy]
    found += _ok(machine, *operations.UMOUNT)
    found += _left(machine, clean)
    row.injected, row.failed, row.differs = count, min(count, len(found)), found
    return row


def rounds(machine: Machine, count: int) -> Row:
    """By the Python interface, which the modules use as well."""
    row = Row("scale", f"rounds of deploying and removing by the Python interface: {count:,}")
    clean = machine.state()
    for __ in range(count):
        found = _ok(machine, "python3", str(_ROUNDS))
        row.count(found + _left(machine, clean))
    return row


def playbooks(machine: Machine, count: int) -> Row:
    row = Row("scale", f"rounds of the playbooks deploy and teardown: {count:,}")
    clean = machine.state()
    small = {"mshare_msharefs_backend": "simulated", "mshare_region_size": "64MiB", "mshare_clients_count": 3}
    for __ in range(count):
        found = []
        for playbook in ("deploy", "teardown"):
            done = machine.host.playbook(f"dbmem.mshare.{playbook}", variables=small)
            if done.exit_code:
                found.append(f"{playbook}: {done.output[-500:]}")
        row.count(found + _left(machine, clean))
    return row
