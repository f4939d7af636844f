# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Touching a region: what prefaults it and what touches it for `mshare attach --touch`, against a loop in C.

Each is measured on memory that nobody has touched before, on a tmpfs, from the start of a process to its
end, which takes its page tables down. Python's, which there is where no compiler is, is shown as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).resolve().parents[1] / "lib"
sys.path.insert(0, str(LIBRARY))

from mshare.backends.connect import connect
from mshare.backends.simulated.layout import Layout
from mshare.errors import Unavailable
from mshare.pagetable import BASE_PAGE_BYTES, STRIDE_BYTES
from mshare.preload import client
from mshare.region.filling import Filler, Place
from mshare.region.region import Region
from mshare.units import GIB, format_size, parse_size

FLOOR_SOURCE = Path(__file__).with_name("filling_floor.c")
ASKED = 1.2


class Part(NamedTuple):
    """What is measured."""

    what: str
    size_bytes: int
    stride_bytes: int


class Run(NamedTuple):
    """Seconds, of one after the other."""

    mshare: float
    floor: float
    python: float


@contextmanager
def region(root: str, size_bytes: int) -> Iterator[Place]:
    backend = connect("simulated", root)
    with Region.create("sga", size_bytes, overcommit=True, backend=backend) as created:
        try:
            yield Place("sga", backend, created.stat().window_bytes, None)
        finally:
            created.unlink()


def ours(root: str, part: Part, in_python: bool = False) -> float:
    found = client.program
    if in_python:
        client.program = _none
    try:
        with region(root, part.size_bytes) as place:
            filler = Filler(place)
            assert (filler.why_python is None) is not in_python, filler.why_python
            started = time.perf_counter()
            assert filler.touch_pages([(0, part.size_bytes)], part.stride_bytes) is None
            return time.perf_counter() - started
    finally:
        client.program = found


def _none() -> str:
    raise Unavailable("Python is measured")


def floor(program: str, place: str, part: Part) -> float:
    path = os.path.join(place, "floor")
    with open(path, "wb") as file:
        file.truncate(part.size_bytes)
    try:
        words = [program, path, str(part.size_bytes), str(part.stride_bytes)]
        started = time.perf_counter()
        __, status = os.waitpid(os.posix_spawn(program, words, os.environ), 0)
        assert status == 0
        return time.perf_counter() - started
    finally:
        os.unlink(path)


def measure(program: str, place: str, root: str, part: Part) -> Run:
    return Run(ours(root, part), floor(program, place, part), ours(root, part, in_python=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2GiB", help="what is prefaulted (default: 2GiB)")
    parser.add_argument("--span", default="128GiB", help="what is touched every 2 MiB (default: 128GiB)")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured (default: 5)")
    options = parser.parse_args()
    parts = (
        Part("prefault, every page", parse_size(options.size), BASE_PAGE_BYTES),
        Part("touch, a page in 2 MiB", parse_size(options.span), STRIDE_BYTES),
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mshare-benchmark-") as place:
        root = os.path.join(place, "root")
        os.mkdir(root)
        Layout.create(root, "2025-08")
        program = os.path.join(place, "filling_floor")
        subprocess.run(["cc", "-O2", "-o", program, str(FLOOR_SOURCE)], check=True)
        # The program of ours is built before it is timed.
        client.program()
        print(f"  {'':<36} {'mshare':>12} {'loop in C':>12} {'ratio':>7} {'Python':>12} {'ratio':>7}")
        for part in parts:
            # In turn, so that a machine whose speed drifts is fair to all.
            show(part, [measure(program, place, root, part) for __ in range(options.runs)])


def show(part: Part, runs: list[Run]) -> None:
    def speed(of: Callable[[Run], float]) -> str:
        return f"{part.size_bytes / GIB / statistics.median(map(of, runs)):.2f} GiB/s"

    ratio = statistics.median(run.mshare / run.floor for run in runs)
    python_ratio = statistics.median(run.python / run.floor for run in runs)
    print(
        f"  {part.what + ', ' + format_size(part.size_bytes):<36} {speed(lambda run: run.mshare):>12}"
        f" {speed(lambda run: run.floor):>12} {ratio:7.2f} {speed(lambda run: run.python):>12}"
        f" {python_ratio:7.2f}  {'met' if ratio <= ASKED else 'not met'}: at most {ASKED} was asked for"
    )


if __name__ == "__main__":
    main()
