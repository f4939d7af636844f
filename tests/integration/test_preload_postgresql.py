# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL with the preload: it starts, works, and comes back after a backend was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mshare.preload.settings import Settings
from mshare.units import MIB
from rig import postgresql
from rig.world import eventually, new_world

BUFFERS_BYTES = 256 * MIB
BACKENDS = 4
SCALE = 1
PORT = 5611

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or postgresql.missing() is not None,
    reason=postgresql.missing() or "the server's user differs from the one who builds the library",
)


def page_tables_kib(server: postgresql.Server) -> int:
    """The smallest of several backends that read the whole table."""
    with server.backends(BACKENDS) as pids:
        return min(postgresql.page_tables_kib(pid) for pid in pids)


def works(server: postgresql.Server) -> None:
    said = server.run("pgbench", "-n", "-c", "4", "-t", "100", postgresql.DATABASE)
    assert "number of failed transactions: 0 (0.000%)" in said


def sum_of_all(server: postgresql.Server) -> tuple[int, int]:
    with server.connect() as connection:
        row = connection.execute("SELECT count(*), sum(abalance) FROM pgbench_accounts").fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


def log(server: postgresql.Server) -> str:
    return (server.directory / "log").read_text(errors="replace")


def restarts(server: postgresql.Server) -> None:
    """A killed backend makes the postmaster throw its memory away and begin anew."""
    before = sum_of_all(server)
    with server.connect() as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        eventually(lambda: log(server).count("database system is ready to accept connections") == 2)
    assert sum_of_all(server) == before


@pytest.mark.parametrize("memory", ["mmap", "sysv"])
def test_thp(library: str, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    settings = {"shared_memory_type": memory}
    with postgresql.server(f"{BUFFERS_BYTES // MIB}MB", port=PORT, **settings) as server:
        server.fill(SCALE)
        stock_kib = page_tables_kib(server)
    for name, value in Settings("thp", verbose=True).environment(library).items():
        monkeypatch.setenv(name, value)
    with postgresql.server(f"{BUFFERS_BYTES // MIB}MB", port=PORT, **settings) as server:
        server.fill(SCALE)
        assert page_tables_kib(server) < stock_kib / 2
        works(server)
        restarts(server)
        assert page_tables_kib(server) < stock_kib / 2
        assert log(server).count("took over") >= 2
        assert "left to the kernel" not in log(server)


def test_simulated(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_world() as world:
        for directory in (world.root, world.root / ".simulated"):
            directory.chmod(0o1777)
        settings = Settings("4k", "simulated", str(world.root), verbose=True)
        for name, value in settings.environment(library).items():
            monkeypatch.setenv(name, value)
        with postgresql.server(f"{BUFFERS_BYTES // MIB}MB", port=PORT) as server:
            server.fill(SCALE)
            works(server)
            assert world.region(f"preload.{server.pid}.1")["health"] == "healthy"
            with server.backends(1) as (pid,):
                assert f"{world.root}/preload.{server.pid}.1" in Path(f"/proc/{pid}/maps").read_text()
            restarts(server)
            assert [name for name in os.listdir(world.root) if name.startswith("preload.")] == [
                f"preload.{server.pid}.2"
            ]
        monkeypatch.undo()
        assert world.files() == []
