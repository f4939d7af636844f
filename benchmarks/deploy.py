# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploying msharefs, a region and its clients: the roles, against the same job written by hand.

On real ssh hosts without systemd, all at once, first and second run. Needs root, as tests/rig/hosts does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from rig.hosts.base import LIBRARY
from rig.hosts.fleet import Fleet, missing

MIB = 1 << 20
CLIENTS, REGION_BYTES = 10, 256 * MIB
WAYS = {
    "ours": (
        HERE / "deploy_ours.yml",
        {
            "mshare_region_size": f"{REGION_BYTES}",
            "mshare_clients_count": CLIENTS,
            "mshare_clients_span": f"{REGION_BYTES}",
            # The hosts have what the library needs, as a database's host has it from its image.
            "mshare_runtime_packages_managed": False,
        },
    ),
    "by hand": (HERE / "deploy_by_hand/deploy.yml", {"clients": CLIENTS, "region_bytes": REGION_BYTES}),
}
RUNS = ("first", "second")


@contextmanager
def hosts(count: int) -> Iterator[Path]:
    """So many hosts on which nothing was deployed yet, and an inventory of them."""
    fleet = Fleet(f"benchmark-{os.getpid()}")
    fleet.start(count, kind=LIBRARY)
    try:
        yield fleet.inventory
    finally:
        fleet.stop()


def run(inventory: Path, way: str, count: int, changes: bool) -> float:
    """One run of a playbook, in seconds; it has to succeed on every host, with changes or without any."""
    playbook, variables = WAYS[way]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".venv" / "collections"),
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_NOCOWS": "1",
        "ANSIBLE_FORKS": str(count),
        "LC_ALL": "C.UTF-8",
    }
    program = REPOSITORY / ".venv/bin/ansible-playbook"
    command = [program, "-i", inventory, playbook, "-e", json.dumps(variables)]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-4000:]}")
    recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
    changed = {host: figure != "0" for host, figure in recap}
    if len(changed) != count or set(changed.values()) != {changes}:
        raise SystemExit(f"{way}: changed should be {changes} on {count} hosts, and is {changed}")
    return seconds


def measure(count: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds by way and run; each round on new hosts, the ways in turn."""
    found: dict[tuple[str, str], list[float]] = {(way, which): [] for way in WAYS for which in RUNS}
    for number in range(rounds):
        for way in sorted(WAYS, reverse=number % 2 == 1):
            with hosts(count) as inventory:
                for which in RUNS:
                    found[way, which].append(run(inventory, way, count, which == "first"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 20], help="how many hosts at once")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    print("hosts  run        ours   by hand   ours / by hand (each round)", flush=True)
    for count in arguments.hosts:
        found = measure(count, arguments.rounds)
        for which in RUNS:
            ours, by_hand = found["ours", which], found["by hand", which]
            ratios = [mine / theirs for mine, theirs in zip(ours, by_hand)]
            print(
                f"{count:5}  {which:6} {statistics.median(ours):6.1f} s {statistics.median(by_hand):7.1f} s"
                f"   {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})",
                flush=True,
            )


if __name__ == "__main__":
    main()
