# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the report of a fleet: how its time grows with the number of hosts.

Prints the ratio, which says the same on every machine: with ten times the hosts it should be near ten.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CLONE / "lib"), str(CLONE / "tests")]

from mshare.report import files
from rig import surveys


def seconds(hosts: int, runs: int) -> float:
    """Reading so many stored surveys and writing their report: the median of the runs."""
    with tempfile.TemporaryDirectory() as folder:
        for name, survey in surveys.fleet(hosts).items():
            (Path(folder) / f"{name}.json").write_text(json.dumps(survey))
        took = []
        for run in range(runs):
            began = time.perf_counter()
            __, contents = files.contents(*files.gathered({}, [folder]))
            files.write(f"{folder}/report-{run}", contents)
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    few, many = max(1, options.hosts // 10), options.hosts
    took = {hosts: seconds(hosts, options.runs) for hosts in (few, many)}
    for hosts, median in took.items():
        print(f"{hosts:5} hosts: {median:6.2f} s (median of {options.runs} runs)")
    print(f"{many / few:.0f} times the hosts take {took[many] / took[few]:.1f} times as long")


if __name__ == "__main__":
    main()
