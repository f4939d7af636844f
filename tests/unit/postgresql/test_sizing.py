# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking a PostgreSQL how many huge pages it needs, of a stand-in; a real one is in integration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.postgresql import sizing
from mshare.postgresql.sizing import Server, Unanswered, huge_pages
from mshare.units import GIB, MIB

STAND_IN = """#!/bin/sh
echo "$@" > {log}
ls -A "$2" "$2/global" >> {log}
cat "$2/global/pg_control" "$2/postgresql.auto.conf" >> {log}
{answer}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    data = tmp_path / "data"
    (data / "global").mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    (data / "global/pg_control").write_text("control\n")
    (data / "postgresql.auto.conf").write_text("shared_buffers = '2GB'\n")
    (data / "postgresql.conf").write_text("")
    (data / "postmaster.opts").write_text(
        '/bin/postgres "-D" "/old" "-c" "port=5544" "--shared_buffers=1GB"\n'
    )
    process = subprocess.Popen(["sleep", "600"])
    yield Server(process.pid, str(tmp_path / "postgres"), str(data))
    process.kill()
    process.wait()


def answers(server: Server, answer: str) -> Path:
    log = Path(server.executable).with_name("log")
    program = Path(server.executable)
    program.write_text(STAND_IN.format(log=log, answer=answer))
    program.chmod(0o755)
    return log


def test_it_is_asked_in_a_folder_of_its_own_with_the_servers_settings(server: Server) -> None:
    log = answers(server, "echo 540")
    assert huge_pages(server, 2 * MIB) == 540
    words, *rest = log.read_text().splitlines()
    scratch = words.split()[1]
    data = server.data_directory
    assert words == (
        f"-D {scratch} -c data_directory={scratch} -c config_file={data}/postgresql.conf -c port=5544"
        f" -c shared_buffers=1GB -c huge_page_size=2048kB -c ssl=off -C shared_memory_size_in_huge_pages"
    )
    assert "control" in rest
    assert "shared_buffers = '2GB'" in rest
    assert not os.path.exists(scratch)
    assert sorted(os.listdir(data)) == [
        "PG_VERSION",
        "global",
        "postgresql.auto.conf",
        "postgresql.conf",
        "postmaster.opts",
    ]


def test_a_server_that_does_not_run_is_asked_with_its_own_file(server: Server) -> None:
    log = answers(server, "echo 74")
    uid, data = os.geteuid(), server.data_directory
    assert sizing.of_stopped(uid, server.executable, data, "/etc/pg.conf", GIB) == 74
    words = log.read_text().splitlines()[0]
    scratch = words.split()[1]
    assert words == (
        f"-D {scratch} -c data_directory={scratch} -c config_file=/etc/pg.conf -c huge_page_size=1048576kB"
        " -c ssl=off -C shared_memory_size_in_huge_pages"
    )
    answers(server, "echo no >&2; exit 1")
    with pytest.raises(Unanswered, match="failed: no"):
        sizing.of_stopped(uid, server.executable, data, "/etc/pg.conf", GIB)
    with pytest.raises(Unanswered, match="PostgreSQL 14 cannot say"):
        sizing.require_counting("14")


def test_only_root_and_its_user_ask_a_server_that_does_not_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(Unanswered, match=r"only root and its own user \(uid 0\) may ask it"):
        sizing.of_stopped(0, server.executable, server.data_directory, "/etc/pg.conf", GIB)


def test_the_page_size_is_the_one_that_is_asked_for(server: Server) -> None:
    log = answers(server, "echo 2")
    assert huge_pages(server, GIB) == 2
    assert "huge_page_size=1048576kB" in log.read_text()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("echo 'FATAL: no' >&2; exit 1", r"-C shared_memory_size_in_huge_pages` failed: FATAL: no"),
        ("echo -1", r"answers '-1'"),
        ("echo", r"answers ''"),
    ],
)
def test_why_it_does_not_answer(server: Server, answer: str, reason: str) -> None:
    answers(server, answer)
    with pytest.raises(Unanswered, match=reason):
        huge_pages(server, 2 * MIB)


def test_a_program_that_is_gone_and_a_server_that_is(server: Server) -> None:
    with pytest.raises(Unanswered, match="are those of a container, or not there any more"):
        huge_pages(server, 2 * MIB)
    with pytest.raises(Unanswered, match="its postmaster 4194303 has ended"):
        huge_pages(Server(4194303, server.executable, server.data_directory), 2 * MIB)


def test_a_program_that_cannot_be_run(server: Server) -> None:
    answers(server, "echo 540")
    Path(server.executable).chmod(0o644)
    with pytest.raises(Unanswered, match="did not answer"):
        huge_pages(server, 2 * MIB)


def test_the_first_version_that_can_be_asked() -> None:
    assert sizing.COUNTS_HUGE_PAGES == 15
