# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL whose memory the preload only aligns goes into huge pages under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mshare.collapse.collapse import Result, collapse, subject_of
from mshare.collapse.follow import follow
from mshare.collapse.target import find
from mshare.errors import Unavailable
from mshare.kernel import madvise
from mshare.preload.settings import Settings
from mshare.units import MIB
from rig import postgresql
from rig.world import eventually

BUFFERS = "256MB"
SCALE = 1
CLIENTS = 4
PORT = 5617

pytestmark = [
    pytest.mark.skipif(
        os.getuid() != 0 or postgresql.missing() is not None,
        reason=postgresql.missing() or "only root changes the memory of another user's server",
    ),
    pytest.mark.skipif(not madvise.can_collapse(), reason="this kernel has no MADV_COLLAPSE"),
]


@pytest.fixture
def aligned(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers start with the preload, pages thp, prefault off: placed for huge pages, and nothing else."""
    for name, value in Settings("thp", prefault=False, verbose=True).environment(library).items():
        monkeypatch.setenv(name, value)


def in_huge_pages(result: Result) -> bool:
    return result.after.huge_bytes >= 0.9 * result.after.used_bytes > 0


def test_a_stock_server_is_told_how_it_can_be_done() -> None:
    with postgresql.server(BUFFERS, port=PORT) as server:
        (segment, *_others) = subject_of(find(str(server.data_directory))).segments
        # Where the kernel puts a segment is chance; one in 512 begins where huge pages fit.
        if not segment.congruent:
            with pytest.raises(Unavailable, match=r"not congruent to its offset.* --pages thp --no-prefault"):
                collapse(str(server.data_directory), check=True)


@pytest.mark.usefixtures("aligned")
def test_under_load_no_transaction_fails() -> None:
    with postgresql.server(BUFFERS, port=PORT) as server:
        server.fill(SCALE)
        words = ["-n", "-c", str(CLIENTS), "-T", "8", postgresql.DATABASE]
        with (
            server.backends(1) as (idle,),
            subprocess.Popen(
                server.command("pgbench", *words),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                text=True,
            ) as load,
        ):
            eventually(lambda: b"pgbench" in Path(f"/proc/{load.pid}/cmdline").read_bytes())
            before_kib = postgresql.page_tables_kib(idle)
            result = collapse(str(server.data_directory))
            # Of one that has touched all of it and touches nothing more: the load's grow meanwhile.
            assert postgresql.page_tables_kib(idle) < before_kib
            told, __ = load.communicate()
        assert "number of failed transactions: 0 (0.000%)" in told
        assert (result.pid, load.returncode) == (server.pid, 0)
        # What the load touches meanwhile is small again, until the next run.
        assert (result.left, result.collapsed_bytes) == ({}, result.before.used_bytes)
        assert in_huge_pages(collapse(str(server.data_directory)))


@pytest.mark.usefixtures("aligned")
def test_a_crash_restart_is_in_huge_pages_again_by_itself() -> None:
    news: list[str] = []
    with postgresql.server(BUFFERS, port=PORT) as server:
        server.fill(SCALE)
        log = server.directory / "log"

        def wait(seconds: float) -> bool:
            if len(news) == 1:
                with server.connect() as connection:
                    os.kill(connection.info.backend_pid, signal.SIGKILL)
                    eventually(lambda: log.read_text().count("ready to accept connections") == 2)
                # What the new memory holds is what has been used since.
                server.fill(SCALE)
            return len(news) >= 2

        follow(str(server.data_directory), wait, news.append, seconds=0)
        assert all("are in huge pages now" in sentence for sentence in news), news
        assert in_huge_pages(collapse(str(server.data_directory)))


@pytest.mark.usefixtures("aligned")
def test_the_module_does_it_once() -> None:
    with postgresql.server(BUFFERS, port=PORT) as server:
        server.fill(SCALE)
        argument = f"target={server.data_directory}"

        def run(*words: str) -> dict[str, object]:
            done = subprocess.run(
                [
                    Path(sys.executable).parent / "ansible", "localhost", "-i", "localhost,", "-c", "local",
                    "-e", f"ansible_python_interpreter={sys.executable}",
                    "-o", "-m", "dbmem.mshare.mshare_collapse", "-a", argument, *words,
                ],
                capture_output=True,
                text=True,
                check=False,
            )  # fmt: skip
            result: dict[str, object] = json.loads(done.stdout.partition("=> ")[2])
            return result

        checked, first, second = run("--check"), run(), run()
        assert (checked["changed"], first["changed"], second["changed"]) == (True, True, False), first
        assert (
            int(str(first["collapsed_bytes"])) >= 100 * MIB
            or first["collapsed_bytes"] == checked["collapsed_bytes"]
        )
