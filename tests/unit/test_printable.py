# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that others chose, where they leave the library."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mshare import texttable
from mshare.cli.screen import Screen
from mshare.host import procfs
from mshare.printable import printable, printable_painted, signal_name

TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres: 15/main ärger 数据库", "postgres: 15/main ärger 数据库"),
        (TITLE, r"\x1b]0;owned\x07"),
        ("\x1b[2J\x9b31m", r"\x1b[2J\x9b31m"),
        ("a\nb\r\tc", r"a\x0ab\x0d\x09c"),
        (os.fsdecode(b"\xff\xfe"), r"\xff\xfe"),
        ("\ud800", r"\ud800"),
        ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
        ("\U000e0001", r"\U000e0001"),
        ("a\u00a0b\n", "a\u00a0b\\x0a"),
    ],
)
def test_what_is_shown(text, shown):
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_lines_of_ours_stay_lines():
    assert printable_painted(f"\x1b[1mone\x1b[0m\t{TITLE}\n") == "\x1b[1mone\x1b[0m\t\\x1b]0;owned\\x07\\x0a"


def test_a_table_has_one_row_for_each(capsys):
    name = f"sga\nforged  healthy{TITLE}"
    lines = list(texttable.table(("Region", "Health"), [(name, "healthy")], (), 200))
    assert len(lines) == 2
    assert "\x1b" not in "".join(lines)
    Screen(False).table(("Region", "Health"), [(name, "healthy")])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_sentences_of_the_command_line(capsys):
    screen = Screen(False)
    screen.sentence(f"said {TITLE}\nnext")
    screen.warn(f"warned {TITLE}\nforged")
    screen.error("failed", f"refused {TITLE}\nforged", 1)
    screen.fields([("name", f"value {TITLE}\nforged")])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert (len(out.splitlines()), len(err.splitlines())) == (2, 2)


def test_a_command_line_of_a_process():
    words = [
        sys.executable,
        "-c",
        "import sys; print(1, flush=True); sys.stdin.read()",
        f"{TITLE}\n",
        b"\xff",
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        command = procfs.command(process.pid)
        process.stdin.close()
    assert command.endswith(r"\x1b]0;owned\x07\x0a \xff")


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (34, "SIGRTMIN"), (35, "signal 35")])
def test_the_names_of_signals(number: int, name: str) -> None:
    assert signal_name(number) == name
