# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make prove`: attack the product, count, and write docs/proof.json and docs/proof.md.

    python -m prove [--tries N] [--rounds N] [--record FILE] [SUITE...]

Without a suite all of them run. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prove import command_lines, disturb, operations, pytests, scale, tally
from prove.machine import new_machine
from prove.tally import Row


def disturbed(suite: str, tries: int, names: set[str]) -> Iterator[Row]:
    with new_machine() as machine:
        operations.prepare(machine)
        table = [*operations.command_lines(), *operations.runtime()]
        yield from disturb.run(machine, disturb.only(table, names), suite, tries)
    table = disturb.only(operations.monitoring(), names)
    if table:
        yield from disturb.run_apart(table, suite, tries)
    table = disturb.only(operations.huge_pages(), names)
    if table:
        yield from disturb.run_with_pool(table, suite, tries)
    table = disturb.only(operations.postgresql(), names)
    if table:
        yield from disturb.run_with_cluster(table, suite, tries)
    table = disturb.only(operations.remedy(), names)
    if table:
        yield from disturb.run_with_cluster_and_pool(table, suite, tries)


def suites(arguments: argparse.Namespace) -> dict[str, Callable[[], Iterator[Row]]]:
    def tests(suite: str) -> Callable[[], Iterator[Row]]:
        return lambda: pytests.run(suite)

    return {
        "kills": lambda: disturbed("kills", arguments.tries, set(arguments.only)),
        "errors": lambda: disturbed("errors", arguments.tries, set(arguments.only)),
        "command lines": lambda: command_lines.run(arguments.lines),
        **{suite: tests(suite) for suite in pytests.FILES},
        "scale": lambda: scale.run(arguments.rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("--tries", type=int, default=8, help="how often each operation is disturbed")
    parser.add_argument("--lines", type=int, default=2000, help="how many command lines")
    parser.add_argument("--rounds", type=int, default=200, help="how many deployments")
    parser.add_argument("--only", action="append", default=[], help="kills, errors: an operation, like map")
    parser.add_argument("--record", type=Path, default=tally.RECORD)
    parser.add_argument("suite", nargs="*", help=", ".join(tally.SUITES))
    arguments = parser.parse_args()
    table = suites(arguments)
    failed = 0
    for suite in arguments.suite or tally.SUITES:
        started = time.monotonic()
        rows: list[Row] = []
        before = tally.read(arguments.record).get(suite)
        for row in table[suite]():
            rows.append(row)
            print(tally.text([row]), file=sys.stderr, flush=True)
            # After each row: an interrupted run has counted what it has counted. Read again: another suite
            # may be running at the same time.
            record = tally.read(arguments.record)
            run = tally.new(rows, _command(suite, arguments), time.monotonic() - started)
            record[suite] = tally.amended(before, run) if arguments.only else run
            tally.write(record, arguments.record)
        failed += sum(row.failed for row in rows)
    record = tally.read(arguments.record)
    arguments.record.with_suffix(".md").write_text(tally.page(record))
    print(tally.text([row for run in record.values() for row in run.rows]))
    return 1 if failed else 0


def _command(suite: str, arguments: argparse.Namespace) -> str:
    """What makes this run again."""
    words = {"kills": "tries", "errors": "tries", "command lines": "lines", "scale": "rounds"}
    option = words.get(suite)
    only = "".join(f'--only "{name}" ' for name in arguments.only)
    given = f"{only}--{option} {getattr(arguments, option)} " if option else ""
    quoted = f'"{suite}"' if " " in suite else suite
    return f"make prove PROVE='{given}{quoted}'"


if __name__ == "__main__":
    sys.exit(main())
