# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module's options become on the command line, and what is made of the answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbmem.mshare.plugins.plugin_utils.action import documents
from ansible_collections.dbmem.mshare.plugins.plugin_utils.commands import (
    NUMBER,
    SEQUENCE,
    TEXT,
    TRUTH,
    Command,
)
from rig.patience import HANG_SECONDS

CREATE = Command(
    ("create",),
    spec={"name": TEXT, "size": NUMBER, "before": SEQUENCE, "pattern": TRUTH},
    flags=("force",),
    switches=("boot",),
)
REMOVE = Command(("rm",), argument="name", values=("backend", "memory_max"), flags=("force",))

# Says how it was called.
TELL = f"""#!{sys.executable} -I
import json, sys
print(json.dumps([sys.argv[1:], open("/dev/stdin").read() if "--spec" in sys.argv else None]))
"""


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("a place") / "mshare"
    path.write_text(TELL)
    path.chmod(0o755)
    return str(path)


def called(line: str | None) -> tuple[list[str], str | None]:
    assert line is not None
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=True, timeout=HANG_SECONDS
    )
    words, spec = json.loads(done.stdout)
    return words, spec


def test_a_spec_flags_and_switches(executable):
    spec_of = {"name": "sga", "size": 1 << 26, "before": ["db.service"], "pattern": False}
    arguments = {**spec_of, "force": True, "boot": False}
    words, spec = called(CREATE.line(executable, arguments, "--check"))
    assert words == ["--json", "create", "--check", "--force", "--no-boot", "--spec", "/dev/stdin"]
    assert json.loads(spec) == spec_of


def test_an_argument_and_values(executable):
    arguments = {"name": "sga", "memory_max": 5, "force": False}
    assert called(REMOVE.line(executable, arguments)) == (["--json", "rm", "sga", "--memory-max", "5"], None)


@pytest.mark.parametrize("nothing", [None, []])
def test_what_says_nothing_is_left_out(executable, nothing):
    assert called(REMOVE.line(executable, {"name": nothing, "other": nothing})) == (["--json", "rm"], None)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"nonsense": 1}, {"force": "yes"}, {"force": 1}, {"boot": "no"}, {"mode": "0600"}),
        *({"name": "$HOME"}, {"before": ["$HOME"]}),
        *({"name": 1777}, {"size": 1.5}, {"size": True}, {"before": "db"}, {"pattern": 1}, {"pattern": "no"}),
    ],
)
def test_what_cannot_be_said_is_left_to_the_module(arguments):
    assert CREATE.line("/usr/local/bin/mshare", {"name": "sga", **arguments}) is None


text = st.text(st.characters(codec="utf-8", exclude_characters="\0$"), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None)
@given(name=text, value=text)
def test_a_shell_changes_nothing(executable, name, value):
    words, __ = called(REMOVE.line(executable, {"name": name, "backend": value}))
    assert words == ["--json", "rm", name, "--backend", value]
    __, spec = called(CREATE.line(executable, {"name": name, "size": value}))
    assert json.loads(spec) == {"name": name, "size": value}


@pytest.mark.parametrize(
    ("said", "answers"),
    [
        ("", []),
        ("Welcome to db1\n", []),
        ('{"a": 1}\n', [{"a": 1}]),
        (
            'Welcome to {db1}\n{\n  "a": {\n    "b": [{}]\n  }\n}\r\n{"c": 2}\nGoodbye\n',
            [{"a": {"b": [{}]}}, {"c": 2}],
        ),
        ('{"a": 1', []),
        ("{broken}\n", []),
    ],
)
def test_answers_among_what_else_a_host_says(said, answers):
    assert documents(said) == answers
