# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What commands show in a real terminal of 80 and of 140 columns."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.texttable import width_of
from mshare.units import GIB
from rig import surveys
from rig.hosts.fleet import HERE as RIG
from rig.world import World, new_world

LIBRARY = Path(__file__).parents[3] / "lib"
SHARERS = str(RIG / "sharers.py")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def terminal(
    columns: int, *words: str, world: World | None = None, before: tuple[str, ...] = ()
) -> list[str]:
    """The lines that a command writes into a terminal, with their colours; `before` is what runs it."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "PYTHONPATH": str(LIBRARY),
    }
    if world is not None:
        environment = {**world.environment, "TERM": "xterm"}
    with subprocess.Popen(
        [*before, sys.executable, "-m", "mshare", *words],
        stdout=follower,
        stderr=subprocess.STDOUT,
        env=environment,
    ) as command:
        os.close(follower)
        written = b""
        while True:
            try:
                more = os.read(leader, 65536)
            except OSError:  # EIO: the last process that had the terminal is gone.
                break
            if not more:
                break
            written += more
    os.close(leader)
    text = written.decode("utf-8").replace("\r\n", "\n")
    assert command.returncode in (0, 3), text
    return text.splitlines()


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


def too_wide(lines: list[str], columns: int) -> list[str]:
    return [line for line in (COLOURS.sub("", line) for line in lines) if width_of(line) > columns]


@pytest.fixture
def survey(tmp_path: Path) -> str:
    path = tmp_path / "db1.json"
    main = surveys.instance("postgresql 15/main", 64 * GIB, 100, maximum=3000)
    other = surveys.instance("a-database-with-a-rather-long-name/of-a-team-with-many-databases", 4 * GIB, 20)
    path.write_text(json.dumps(surveys.survey("db1", [main, other])))
    return str(path)


# A word of a command cannot be broken.
COMMAND_LINE = re.compile(r"^ {4,}(ansible-playbook|-e) ")
PASTED = re.compile(r"^(#|vm\.|huge_page|mshare_|  ?[a-z_]+ = )")


@pytest.mark.parametrize("columns", [80, 140])
def test_a_plan_begins_with_the_verdict_and_fits(survey: str, columns: int) -> None:
    lines = terminal(columns, "plan", survey)
    bare = [COLOURS.sub("", line) for line in lines]
    assert bare[0].startswith("db1: will run out of memory at its maximum: ")
    assert "\x1b[31m" in lines[0]
    first_screen = "\n".join(bare[:24])
    for word in ("postgresql 15/main: will run out", "Remedy ", "Saves ", "Costs ", "Needs ", "Command"):
        assert word in first_screen
    text = bare[: next(number for number, line in enumerate(bare) if line.endswith("to paste:"))]
    assert too_wide([line for line in text if not COMMAND_LINE.match(line)], columns) == []
    assert re.search(r"^connection pooling to( 300)? +\d", "\n".join(bare), re.MULTILINE)


@pytest.fixture(scope="module")
def a_few() -> Iterator[tuple[str, ...]]:
    """What runs a command where it sees a few processes that share memory, and no others: the programs of
    other tests may have any name."""
    if os.geteuid() != 0:
        yield ()
        return
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with subprocess.Popen(
        [*alone, sys.executable, SHARERS, "database", "5", "64"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as sharers:
        assert sharers.stdout is not None
        assert sharers.stdout.readline() == b"ready\n"
        namespaces = f"/proc/{sharers.pid}/ns"
        yield "nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"
        sharers.communicate()


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize(
    "words", [("survey",), ("info",), ("model",), ("plan", "--size", "1GiB", "--clients", "9")]
)
def test_what_is_looked_up_fits(words: tuple[str, ...], columns: int, a_few: tuple[str, ...]) -> None:
    lines = terminal(columns, *words, before=a_few)
    assert lines
    bare = [line for line in lines if not PASTED.match(line)]
    # A path or a name without a separator is not broken.
    wide = [line for line in too_wide(bare, columns) if len(line.split()) > 1 and not line.startswith("  /")]
    assert wide == []


@pytest.mark.parametrize("columns", [80, 140])
def test_a_regions_line_and_its_savings_fit(world: World, columns: int) -> None:
    with world.owned("sga", "--size", "4MiB", "--pattern"):
        listed = terminal(columns, "list", world=world)
        world.ok("clients", "start", "sga", "--count", "2")
        try:
            validated = terminal(columns, "validate", "sga", world=world)
        finally:
            world.ok("clients", "stop", "sga")
    assert any("sga" in line for line in listed)
    assert any("Validation passed" in line for line in validated)
    assert [line for line in too_wide(listed, columns) if " " in line.strip()] == []
    table = [line for line in validated if re.search(r"(measured|modelled|projected)$", line)]
    assert table
    assert too_wide(table, columns) == []
