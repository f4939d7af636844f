# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the proof counted: its record, and the page in docs/ that is made from it."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checks.layout import ROOT, load_yaml

RECORD = ROOT / "docs" / "proof.json"
PAGE = ROOT / "docs" / "proof.md"
_GIB_KB = 1 << 20
_AND_THEN = ", and then "

SUITES = {
    "kills": "`kill -9` at the system calls of each operation that change something",
    "errors": "errors injected at the system calls of each operation",
    "command lines": "command lines made of wrong words and values",
    "garbled files": "status, sidecar, layout, manifest and spec files with anything in them",
    "attacks": "links, swapped files and locks by another real user",
    "preload": "small programs that must do the same with the preload as without",
    "launcher": "clients whose launcher is killed, in a cgroup and without one",
    "scale": "many clients, many regions, many rounds",
}
"""What each suite tries."""


@dataclass
class Row:
    """One line of the table."""

    suite: str
    what: str
    injected: int = 0
    """How many times something was tried against it."""
    differs: list[str] = field(default_factory=list)
    """What was not as it should be, a sentence each."""
    failed: int = 0
    """How many of the tries had a difference."""

    @property
    def survived(self) -> int:
        return self.injected - self.failed

    def count(self, differences: Sequence[str]) -> None:
        """Count one try, with what differed after it."""
        self.injected += 1
        if differences:
            self.failed += 1
            self.differs.extend(differences)


@dataclass(frozen=True)
class Run:
    """A suite, run from its beginning to its end."""

    date: str
    version: str
    """Of the collection."""
    machine: str
    command: str
    seconds: int
    rows: list[Row]


Record = dict[str, Run]
"""The last run of each suite."""


def new(rows: Iterable[Row], command: str, seconds: float) -> Run:
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    version = str(load_yaml(ROOT / "galaxy.yml")["version"])
    return Run(today, version, shape(), command, round(seconds), list(rows))


def amended(whole: Run | None, again: Run) -> Run:
    """A run in which some rows are those of a later one, as after a fault that the first had found."""
    if whole is None:
        return again
    later = {row.what: row for row in again.rows}
    rows = [later.pop(row.what, row) for row in whole.rows]
    command = f"{whole.command}{_AND_THEN}{again.command}"
    seconds = whole.seconds + again.seconds
    return Run(again.date, again.version, again.machine, command, seconds, [*rows, *later.values()])


def read(path: Path = RECORD) -> Record:
    """The record; empty where there is none yet."""
    if not path.exists():
        return {}
    record = {}
    for suite, fields in json.loads(path.read_text()).items():
        rows = [Row(**row) for row in fields.pop("rows")]
        record[suite] = Run(**fields, rows=rows)
    return record


def write(record: Record, path: Path = RECORD) -> None:
    ordered = {suite: asdict(record[suite]) for suite in SUITES if suite in record}
    path.write_text(json.dumps(ordered, indent=1) + "\n")


def shape() -> str:
    """The machine, as far as it matters: nothing by which it could be recognized."""
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    release = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return (
        f"{os.cpu_count()} CPUs, {round(memory_kb / _GIB_KB)} GiB, Linux {kernel}, {release},"
        f" Python {platform.python_version()}"
    )


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    wide = max(len(f"{row.suite}: {row.what}") for row in rows)
    lines = [f"{'':{wide}}  injected  survived  differs"]
    for row in rows:
        name = f"{row.suite}: {row.what}"
        lines.append(f"{name:{wide}}  {row.injected:8}  {row.survived:8}  {row.failed:7}")
        lines += [f"    {difference}" for difference in row.differs]
    injected, survived = sum(row.injected for row in rows), sum(row.survived for row in rows)
    lines.append(f"{'all':{wide}}  {injected:8}  {survived:8}  {injected - survived:7}")
    return "\n".join(lines)


def page(record: Record) -> str:
    """The page in docs/."""
    lines = [
        "<!-- Written by `make prove` from docs/proof.json. Do not edit. -->",
        "# What the product survived",
        "",
        "`make prove` attacks the product and counts. *Injected* is how many times something was done to it,"
        " *survived* how many of these left everything as it should be, *differs* the rest.",
        "",
        "- After each kill and each error every second operation is repeated, and has to succeed; then"
        " `rm --force` or `umount --force` has to end everything: no process, no mount and no file is left.",
        "- Meanwhile no file may be open to others, or belong to somebody, as no undisturbed run leaves it.",
        "- Whatever goes wrong is one sentence with an exit code from the command's help, never a traceback,"
        " and a request that failed has been undone.",
        "",
        "Each figure is a count of the runs that are named above its table. Where several are named,"
        " later ones replaced rows: of operations that an interrupted run had not reached, or after a fault"
        " was mended.",
        "",
    ]
    for suite, title in SUITES.items():
        run = record.get(suite)
        if run is None:
            continue
        commands = "`, and then `".join(run.command.split(_AND_THEN))
        lines += [
            f"## {suite.capitalize()}",
            "",
            f"{title[0].upper()}{title[1:]}. Run on {run.date} with version {run.version}, by"
            f" `{commands}`, in {max(1, round(run.seconds / 60))} min, on {run.machine}.",
            "",
            "| | injected | survived | differs |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row.what} | {row.injected:,} | {row.survived:,} | {row.failed:,} |" for row in run.rows
        ]
        lines += ["", *(f"- {difference}" for row in run.rows for difference in row.differs)]
        lines += [""] * bool(lines[-1])
    rows = [row for run in record.values() for row in run.rows]
    injected, failed = sum(row.injected for row in rows), sum(row.failed for row in rows)
    lines += [f"Together: {injected:,} injected, {injected - failed:,} survived, {failed:,} differ.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(read()))
