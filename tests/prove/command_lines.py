# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines of wrong words: each ends with a documented exit code and a sentence, never a traceback.

Every command with every option, with values that fit, nearly fit, or do not fit at all. The same number
always makes the same lines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import click

from mshare.cli.program import mshare
from prove.machine import Machine, new_machine
from prove.tally import Row

CODES = (0, 1, 2, 3, 4, 5, 130)
_SEED = 11
_RUNNER = Path(__file__).with_name("run_command_lines.py")
# They stay until they are told to end, or run whatever they are given.
_STAYS = {"--hold", "--watch", "--follow"}
_VALUES = (
    *("", " ", "-", "--", "0", "-1", "1", "2", "07", "0x10", "1e9", "nan", "inf", "-0", "9" * 40),
    *("1.5", "1,5", "4KiB", "1MiB", "64MiB", "3 GiB", "1XiB", "MiB", "1TiB", "100EiB", "0GiB", "-1GiB"),
    *("4096", "4097", "sga", "SGA", "a" * 300, "../etc/passwd", "/", "/etc/passwd", "/dev/zero"),
    *("/dev/full", "/nowhere", ".", "..", "/proc/self/mem", "name\nnew line", "\x1b]0;title\x07"),
    *("\udcff\udcfe", "ü", "\u202eevil", "{}", "[]", "simulated", "kernel", "auto", "thp", "4k", "hugetlb"),
    *("anonymous", "r", "rw", "0660", "9999", "root", "nobody", "nogroup", "kind=anonymous", "=", ",,,"),
    *("kind=file,path=/etc/passwd,size=1GiB", "size=,", "2025-08", "2022-06", "1999-01", "null", "true"),
    *("%s%n", "$(id)", "`id`", ";id", "*", "~", "@file"),
)


def lines(count: int) -> list[list[str]]:
    chance = random.Random(_SEED)
    table = list(_commands(mshare, []))
    return [_line(chance, *chance.choice(table)) for __ in range(count)]


def _commands(command: click.Command, words: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _commands(inner, [*words, name])


def _line(chance: random.Random, words: list[str], command: click.Command) -> list[str]:
    line = list(words)
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            line += [chance.choice(_VALUES) for __ in range(chance.choice((0, 1, 1, 1, 2)))]
        elif chance.random() < 0.35:
            name = chance.choice([*parameter.opts, *parameter.secondary_opts])
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            line += [name] if flag or chance.random() < 0.05 else [name, chance.choice(_VALUES)]
    if chance.random() < 0.1:
        line.insert(chance.randrange(len(line) + 1), chance.choice(_VALUES))
    return [word.replace("\0", "") for word in line if word not in _STAYS]


def run(count: int) -> Iterator[Row]:
    with new_machine() as machine:
        yield on(machine, count)


def on(machine: Machine, count: int) -> Row:
    """Run so many lines on a machine; what they made is removed afterwards."""
    row = Row("command lines", "every command, with every option")
    clean = machine.state()
    wanted = lines(count)
    for line, (code, said) in zip(wanted, _answers(machine, wanted)):
        row.count(list(_wrong(line, code, said)))
    for root in ("/run/msharefs", "/sys/fs/mshare"):
        machine.run("mshare", "umount", "--force", "--root", root)
    machine.quiet(clean.processes)
    left = machine.state().processes
    row.count([f"{left} were left"] if left != clean.processes else [])
    return row


def _answers(machine: Machine, wanted: list[list[str]]) -> list[tuple[int, str]]:
    machine.inside("/run/lines.json").write_text(json.dumps(wanted))
    done = machine.run("python3", str(_RUNNER), "/run/lines.json")
    assert done.code == 0, done.errors
    answers: list[tuple[int, str]] = json.loads(done.output)
    return answers


def _wrong(line: list[str], code: int, said: str) -> Iterator[str]:
    if "Traceback" in said:
        yield f"{line} ends with a traceback: {said.strip().splitlines()[-1]}"
    elif code not in CODES:
        yield f"{line} ends with {code}: {said.strip()[-200:]}"
    elif code not in (0, 3, 130) and not said.strip():
        yield f"{line} ends with {code} without a sentence"
