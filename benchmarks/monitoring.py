# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What surveys for Prometheus cost a host: processor time of each, by a service that stays and by a timer.

The service surveys again and again in one process (mshare survey --prometheus --watch), and reads again only
of processes that have run; a timer starts Python each time. Both look at the same forks on one segment.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(CLONE / "lib"), str(CLONE / "tests")]

from survey import forks, progress

SECONDS = (15, 60)
PERCENT = 1
"""Of a core, what surveys every 15 s may take."""
# As the service does it; the first pass, which is one of a timer's but for the start of Python, is left out.
RESIDENT = """
import json, sys, time
from mshare.monitoring import exporter
taken, before = [], 0.0
class Over(Exception): pass
def write(text):
    global before
    exporter.replace(sys.argv[2], text)
    now = time.process_time()
    taken.append(now - before)
    before = now
    if len(taken) > int(sys.argv[1]):
        raise Over
from mshare.survey.survey import Series
try:
    with Series() as series:
        exporter.run(series, write, float(sys.argv[3]))
except Over:
    print(json.dumps(taken[1:]))
"""


def resident(runs: int, output: str, pause: float) -> list[float]:
    words = [sys.executable, "-c", RESIDENT, str(runs), output, str(pause)]
    environment = {**os.environ, "PYTHONPATH": str(CLONE / "lib")}
    done = subprocess.run(words, stdout=subprocess.PIPE, env=environment, text=True, check=True)
    return list(json.loads(done.stdout))


def each_started(runs: int, output: str) -> list[float]:
    words = [sys.executable, "-m", "mshare", "survey", "--prometheus", "--output", output]
    taken = []
    for __ in range(runs):
        before = children_seconds()
        subprocess.run(words, env={**os.environ, "PYTHONPATH": str(CLONE / "lib")}, check=True)
        taken.append(children_seconds() - before)
    return taken


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(name: str, taken: list[float]) -> float:
    median = statistics.median(taken)
    shares = ", ".join(f"{100 * median / seconds:.2f} % of a core every {seconds} s" for seconds in SECONDS)
    between = f"{1000 * min(taken):.1f} to {1000 * max(taken):.1f}"
    print(f"  {name:<24} {1000 * median:7.1f} ms ({between}): {shares}")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2000, help="how many forks (default: 2000)")
    parser.add_argument("--busy", type=int, default=0, help="of 100 forks, how many wake up now and then")
    parser.add_argument("--runs", type=int, default=10, help="how often each is measured (default: 10)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two passes (default: 1)")
    options = parser.parse_args()
    with forks(options.processes, options.busy) as case, tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "mshare.prom")
        progress(f"surveying {options.runs} times each")
        stays, starts = resident(options.runs, output, options.pause), each_started(options.runs, output)
    print(f"{case.title} (measured: processor time of user and system)")
    median = show("a service that stays", stays)
    show("a timer", starts)
    met = 100 * median / SECONDS[0] <= PERCENT
    print(f"  at most {PERCENT} % of a core every {SECONDS[0]} s: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
