# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attaching clients: `mshare clients start`, against a loop in C that starts processes which do the same.

Both attach the same simulated region and touch the same. The time of ours is that of the whole command; while
they are attached, `mshare list` and `mshare validate` are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

LIBRARY = Path(__file__).resolve().parents[1] / "lib"
sys.path.insert(0, str(LIBRARY))

from mshare.backends.simulated.layout import Layout
from mshare.kernel import abi
from mshare.pagetable import STRIDE_BYTES
from mshare.units import format_size, parse_size

FLOOR_SOURCE = Path(__file__).with_name("clients_floor.c")
REGION = "sga"
# Reading smaps of all would take longer than starting them.
SAMPLE = 100


class Cost(NamedTuple):
    """What it took until all clients were attached."""

    seconds: float
    private_bytes: float
    """Of a client, besides page tables: the mean of a sample."""


class Commands(NamedTuple):
    """How long commands took while the clients were attached."""

    list_seconds: float
    validate_seconds: float


def private_bytes(pids: Sequence[int]) -> float:
    """The mean of what processes have for themselves: Private_Clean and Private_Dirty of smaps_rollup."""
    sample = pids[:: max(1, len(pids) // SAMPLE)]
    total_kib = 0
    for pid in sample:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            total_kib += int(line.split()[1]) if line.startswith("Private_") else 0
    return total_kib * 1024 / len(sample)


def mshare(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "mshare", "--json", *words], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


@contextmanager
def region(size: str) -> Iterator[Path]:
    """A region on a simulated msharefs of its own, and nothing left of it afterwards; its file."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mshare-benchmark-") as place:
        root = os.path.join(place, "root")
        os.mkdir(root)
        Layout.create(root, "2025-08")
        os.environ.update(
            PYTHONPATH=str(LIBRARY),
            MSHARE_ROOT=root,
            MSHARE_CONFIG_DIR=os.path.join(place, "config"),
            MSHARE_STATE_DIR=os.path.join(place, "state"),
        )
        mshare("create", REGION, "--size", size, "--overcommit")
        try:
            yield Path(root) / REGION
        finally:
            mshare("rm", REGION, "--force")


def ours(count: int, span: str) -> tuple[Cost, Commands]:
    started = time.perf_counter()
    facts = mshare("clients", "start", REGION, "--count", str(count), "--span", span)["clients"]
    taken = time.perf_counter() - started
    try:
        assert facts["attached"] == count, facts["errors"]
        assert facts["client_kind"] == "lean", facts["client_kind_reason"]
        status = next(Path(os.environ["MSHARE_STATE_DIR"]).rglob(f"{REGION}.clients.json"))
        cost = Cost(taken, private_bytes(json.loads(status.read_text())["pids"]))
        commands = Commands(seconds(lambda: mshare("list")), seconds(lambda: mshare("validate", REGION)))
    finally:
        mshare("clients", "stop", REGION)
    return cost, commands


def floor(program: str, file: Path, count: int, mapped: str, span: str) -> Cost:
    sizes = (file.stat().st_size, parse_size(mapped), parse_size(span), STRIDE_BYTES)
    with subprocess.Popen(
        [program, str(file), str(count), *map(str, sizes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as loop:
        assert loop.stdout is not None
        taken = float(loop.stdout.readline())
        cost = Cost(taken, private_bytes([int(word) for word in loop.stdout.readline().split()]))
        loop.communicate()
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500, help="how many clients (default: 1500)")
    parser.add_argument("--size", default="64MiB", help="of the region (default: 64MiB)")
    parser.add_argument("--span", default="64MiB", help="what each touches of it (default: 64MiB)")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mshare-benchmark-") as place, region(options.size) as file:
        assert file.stat().st_size % abi.X86_64_ALIGNMENT_BYTES == 0
        program = os.path.join(place, "clients_floor")
        subprocess.run(["cc", "-O2", "-static", "-s", "-o", program, str(FLOOR_SOURCE)], check=True)
        # The program of ours is built before it is timed.
        mshare("clients", "start", REGION, "--count", "1")
        mshare("clients", "stop", REGION)
        # In turn, so that a machine whose speed drifts is fair to both.
        runs = [
            (
                ours(options.count, options.span),
                floor(program, file, options.count, options.size, options.span),
            )
            for __ in range(options.runs)
        ]
    print(f"{options.count} clients that touch {options.span} each, median of {options.runs} runs")
    print(f"  {'':<28} {'mshare':>12} {'loop in C':>12} {'ratio':>8}")
    for what, index, shown in (
        ("seconds until attached", 0, "{:.2f} s".format),
        ("private memory per client", 1, lambda size_bytes: format_size(round(size_bytes))),
    ):
        pairs = [(mine[index], theirs[index]) for (mine, __), theirs in runs]
        medians = [shown(statistics.median(side)) for side in zip(*pairs)]
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"  {what:<28} {medians[0]:>12} {medians[1]:>12} {ratio:8.2f}")
    for name in Commands._fields:
        values = [getattr(commands, name) for (__, commands), __ in runs]
        print(f"  {name.partition('_')[0]:<28} {statistics.median(values):>10.2f} s")


if __name__ == "__main__":
    main()
