# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program whose name and segment hold escape sequences, line ends, quotes and bytes that are no text:
no output that shows them is controlled by them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

NAME = b'\x1b]0;owned\x07\x1b[2Jx\nforged "row"\xff\xe2\x80\xae'
SHOWN = '\\x1b]0;owned\\x07\\x1b[2Jx\\x0aforged "row"\\xff\\u202e'
WORK = """
import ctypes, mmap, os, signal
libc = ctypes.CDLL(None)
name = bytes.fromhex(%r)
libc.prctl(15, name, 0, 0, 0)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)
fd = libc.memfd_create(name, 0)
os.ftruncate(fd, 64 << 20)
memory = mmap.mmap(fd, 64 << 20)
for at in range(0, 64 << 20, 4096):
    memory[at] = 1
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    program = os.fsencode(tmp_path_factory.mktemp("programs")) + b"/" + NAME
    shutil.copyfile(os.path.realpath(sys.executable), program)
    os.chmod(program, 0o755)
    command = [program, "-S", "-c", WORK % NAME.hex()]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def surveyed(named, tmp_path_factory):
    """The JSON of a survey, which is the input of the others."""
    text = said("survey", "--json", "--threshold", "4KiB")
    assert any(named.pid in instance["pids"] for instance in json.loads(text)["instances"])
    path = tmp_path_factory.mktemp("survey") / "survey.json"
    path.write_text(text)
    return path


def said(*words):
    command = [sys.executable, "-m", "mshare", *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=True)
    require_plain(done.stdout)
    require_plain(done.stderr)
    return done.stdout.decode()


def require_plain(data):
    """Text whose lines are ours alone, and that nothing in it controls."""
    text = data.decode("utf-8", "strict")
    assert all(character.isprintable() or character in "\n\u00a0" for character in text)
    assert not any(line.lstrip().startswith("forged") for line in text.split("\n"))


def joined(text):
    """Without the places where a column or a line was broken."""
    return "".join(text.split())


def test_the_text_of_a_survey(named):
    assert "\\x1b]0;owned\\x07" in joined(said("survey", "--threshold", "4KiB"))


def test_the_json_is_text_and_keeps_the_name(surveyed):
    found = [instance["name"] for instance in json.loads(surveyed.read_text())["instances"]]
    assert any("owned" in name for name in found)


def test_metrics(named):
    """The format has its own escapes for a line end, a quote and a backslash."""
    text = said("survey", "--prometheus", "--threshold", "4KiB")
    label = '\\\\x1b]0;owned\\\\x07\\\\x1b[2Jx\\nforged \\"row\\"\\\\xff\\\\u202e'
    assert f'program="{label}' in text
    assert all(line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0 for line in text.splitlines())


@pytest.mark.parametrize("option", ["--details", "--formula", "--json"])
def test_a_plan(surveyed, option):
    assert "owned" in joined(said("plan", surveyed, option))


def test_the_report_s_page_and_table(surveyed, tmp_path):
    said("report", surveyed, "--folder", tmp_path)
    page, table = tmp_path / "report.html", tmp_path / "report.csv"
    require_plain(page.read_bytes())
    require_plain(table.read_bytes())
    assert "\\x1b]0;" in page.read_text().replace("<wbr>", "")
    assert SHOWN.replace('"', '""') in table.read_text()
