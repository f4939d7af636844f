# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attaching clients: the launcher, against an interpreter started for each client.

Both attach to the same simulated region of 300 GiB, by the same library, and touch nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).resolve().parents[1] / "lib"
sys.path.insert(0, str(LIBRARY))

from mshare.backends.simulated.layout import Layout
from mshare.host import procfs
from mshare.units import format_size

CLIENT = """
import mshare, os, sys
backend = mshare.connect(root=os.environ["MSHARE_ROOT"])
attachment = mshare.Region.open("sga", backend=backend).attach()
print("attached", flush=True)
sys.stdin.read()
"""


class Cost(NamedTuple):
    """What it took until all clients were attached."""

    seconds: float
    bytes_per_client: float


def anonymous_bytes() -> int:
    """Memory of processes on the whole host, once the kernel has added up its per-CPU counters."""
    time.sleep(2)
    return procfs.meminfo_bytes()["AnonPages"]


def mshare(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "mshare", *words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def region() -> Iterator[None]:
    """A region of 300 GiB on a simulated msharefs of its own, and nothing left of it afterwards."""
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
        mshare("create", "sga", "--size", "300GiB", "--overcommit")
        try:
            yield
        finally:
            mshare("rm", "sga", "--force")


def launcher(count: int) -> Cost:
    before, started = anonymous_bytes(), time.perf_counter()
    mshare("clients", "start", "sga", "--count", str(count), "--no-touch")
    seconds = time.perf_counter() - started
    cost = Cost(seconds, (anonymous_bytes() - before) / count)
    mshare("clients", "stop", "sga")
    return cost


def interpreters(count: int) -> Cost:
    before, started = anonymous_bytes(), time.perf_counter()
    clients = [
        subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for __ in range(count)
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == b"attached\n"
    seconds = time.perf_counter() - started
    cost = Cost(seconds, (anonymous_bytes() - before) / count)
    for client in clients:
        client.communicate()
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many clients (default: 300)")
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured (default: 3)")
    options = parser.parse_args()
    with region():
        # In turn, so that a machine whose speed drifts is fair to both.
        pairs = [(launcher(options.count), interpreters(options.count)) for __ in range(options.runs)]
    print(f"{options.count} clients, median of {options.runs} runs")
    print(f"  {'':<18} {'launcher':>12} {'interpreters':>12} {'ratio':>8}")
    for what, index, shown in (("seconds", 0, "{:.2f} s".format), ("memory per client", 1, format_size)):
        ours, theirs = ([pair[side][index] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        medians = [shown(statistics.median(values)) for values in (ours, theirs)]
        print(f"  {what:<18} {medians[0]:>12} {medians[1]:>12} {ratio:8.2f}")


if __name__ == "__main__":
    main()
