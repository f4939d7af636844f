# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL from Debian's packages, in a temporary directory, its backends with page tables to show.

    with server("512MB") as database, database.backends(30):
        ...

It listens on a Unix socket of its own only, keeps nothing, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .initdb import ACCOUNT, as_account, data_directory
from .patience import HANG_SECONDS

PROGRAMS = Path("/usr/lib/postgresql")
DATABASE = "postgres"
FULL_TOUCH = "SELECT sum(abalance) FROM pgbench_accounts"
"""Has a backend touch all of pgbench's table; count(*) would read an index only."""
_START_LOOKS = 6000
_POLL_SECONDS = 0.01
STOP_SECONDS = 60
MIB_PER_SCALE = 128
"""Size of pgbench's table with `-F 10`: few rows, so that a full scan touches many buffers in little time."""

SETTINGS = {
    "listen_addresses": "",
    "huge_pages": "off",
    # A parallel worker would touch the buffers in the backend's stead.
    "max_parallel_workers_per_gather": "0",
    # Nothing here outlives the test.
    "fsync": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


def missing() -> str | None:
    """What a real PostgreSQL needs and isn't here, for a test to skip with."""
    if _programs() is None:
        return "PostgreSQL's server is not installed (Debian: postgresql-15)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return None


def _programs() -> Path | None:
    """The newest version's programs: Debian keeps each version in a folder of its own."""
    folders = [path.parent for path in PROGRAMS.glob("*/bin/postgres")]
    return max(folders, key=lambda path: int(path.parent.name), default=None)


@dataclass(frozen=True)
class Server:
    """A running instance."""

    pid: int
    directory: Path
    port: int
    max_connections: int
    version: str
    start_seconds: float
    """From the start of its program until it took connections."""

    @property
    def data_directory(self) -> Path:
        return self.directory / "data"

    def command(self, program: str, *words: str) -> list[str]:
        """One of PostgreSQL's own client programs, told where the instance is."""
        where = ["-h", str(self.directory), "-p", str(self.port), "-U", ACCOUNT]
        programs = _programs()
        assert programs is not None, missing()
        return as_account(str(programs / program), *where, *words)

    def run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            self.command(program, *words),
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        return done.stdout

    def connect(self) -> Any:
        """A connection of psycopg, which is there for tests only."""
        import psycopg

        return psycopg.connect(
            host=str(self.directory), port=self.port, user=ACCOUNT, dbname=DATABASE, autocommit=True
        )

    def fill(self, scale: int) -> None:
        """pgbench's table, all of it in shared_buffers.

        A scan alone would not bring it there: of a table larger than a quarter of shared_buffers
        PostgreSQL keeps 256 kB only.
        """
        self.run("pgbench", "-i", "-q", "-F", "10", "-s", str(scale), DATABASE)
        with self.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
            connection.execute("SELECT pg_prewarm('pgbench_accounts')")

    @contextmanager
    def backends(self, count: int) -> Iterator[list[int]]:
        """So many backends that each read the whole table and stay connected; their pids."""
        with ExitStack() as opened:
            connections = [opened.enter_context(self.connect()) for __ in range(count)]
            for connection in connections:
                connection.execute(FULL_TOUCH)
            yield [connection.info.backend_pid for connection in connections]


def page_tables_kib(pid: int) -> int:
    """VmPTE of a process."""
    (kib,) = re.findall(r"^VmPTE:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.M)
    return int(kib)


def _start(
    programs: Path, directory: Path, settings: dict[str, str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    data = directory / "data"
    data_directory(data, programs, "--auth=trust")
    # In the file, as administrators do, and where whoever looks at the instance finds them.
    with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    words = as_account(str(programs / "postgres"), "-D", str(data))
    with open(directory / "log", "wb") as log:
        return subprocess.Popen(words, cwd="/", env={**os.environ, **environment}, stdout=log, stderr=log)


def _wait_until_ready(running: subprocess.Popen[bytes], directory: Path) -> None:
    # Its last line is its state, and there is no other sign that needs no client.
    state = directory / "data" / "postmaster.pid"
    for __ in range(_START_LOOKS):
        if running.poll() is not None:
            break
        with contextlib.suppress(FileNotFoundError):
            if state.read_text(encoding="utf-8").rstrip().endswith("ready"):
                return
        time.sleep(_POLL_SECONDS)
    raise RuntimeError("PostgreSQL did not start:\n" + (directory / "log").read_text(errors="replace"))


def _stop(running: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; then immediate, which takes the backends along, as SIGKILL would not."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        running.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(STOP_SECONDS)
            return
    running.kill()
    running.wait()


@contextmanager
def server(
    shared_buffers: str,
    *,
    max_connections: int = 100,
    port: int = 5499,
    environment: dict[str, str] | None = None,
    **settings: str,
) -> Iterator[Server]:
    """An instance in a temporary directory. It is stopped, and its files removed, whatever happens.

    `environment` is added to ours, for what is preloaded into it.
    """
    programs = _programs()
    assert programs is not None, missing()
    directory = Path(tempfile.mkdtemp(prefix="mshare-postgresql."))
    try:
        if os.getuid() == 0:
            shutil.chown(directory, ACCOUNT, ACCOUNT)
        given = {
            **SETTINGS,
            "shared_buffers": shared_buffers,
            "max_connections": str(max_connections),
            "port": str(port),
            "unix_socket_directories": str(directory),
            **settings,
        }
        running = _start(programs, directory, given, environment or {})
        started = time.perf_counter()
        try:
            _wait_until_ready(running, directory)
            start_seconds = time.perf_counter() - started
            version = (directory / "data" / "PG_VERSION").read_text(encoding="utf-8").strip()
            yield Server(running.pid, directory, port, max_connections, version, start_seconds)
        finally:
            _stop(running)
    finally:
        shutil.rmtree(directory)
