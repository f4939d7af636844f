# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of a cluster: whether it runs, how it is started again, and what it answers.

Reads /proc with the standard library and not with psutil: a check run comes before anything is installed on
the host. Processes are ended by systemd or pg_ctlcluster, never from here.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .. import files
from ..errors import MshareError
from ..host import processes, procfs
from ..services.choose import systemd_runs
from .clusters import CONTROL, Cluster
from .spec import START_SECONDS

_DATABASE = "postgres"
_POLL_SECONDS = 0.1
_LOG_LINES = 12
_AT_SECURE = 23
# Lines of postmaster.pid.
_PORT, _SOCKETS, _STATE = 3, 4, 7
# A standby with hot_standby = off is up and takes no connections.
_READY, _STANDBY = "ready", "standby"


@dataclass(frozen=True)
class Server:
    """A postmaster that runs."""

    pid: int
    started_ticks: int
    port: str
    sockets: str
    ready: bool
    connects: bool = True
    """Whether it takes connections once it is ready."""

    def environment(self) -> dict[str, str]:
        """What it was started with. A postmaster, unlike its children, writes no title over it."""
        return processes.of_pid(self.pid).environment()

    def is_secure(self) -> bool:
        """Whether the kernel had the loader ignore LD_PRELOAD (AT_SECURE, getauxval(3)): after a transition
        of a security module, or for a program that has more rights than who starts it."""
        with open(f"/proc/{self.pid}/auxv", "rb") as file:
            pairs: dict[int, int] = dict(struct.iter_unpack("@LL", file.read()))
        return pairs.get(_AT_SECURE, 0) != 0

    def children(self) -> list[int]:
        """Its backends and helpers, which have its memory by fork."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]


def running(cluster: Cluster) -> Server | None:
    """The postmaster of a cluster, by the file it leaves in its data directory."""
    path = os.path.join(os.path.realpath(cluster.data_directory), "postmaster.pid")
    lines = (files.read_foreign(path, uids={cluster.uid}) or "").split("\n")
    if not lines[0].strip().isdigit():
        return None
    pid = int(lines[0])
    started_ticks = procfs.start_ticks(pid)
    # A file that a crash left behind may name a stranger's process.
    if started_ticks is None or not _is_of(cluster, pid):
        return None
    fields = [*lines, *[""] * _STATE]
    state = fields[_STATE].strip()
    where = (fields[_PORT].strip(), fields[_SOCKETS].strip())
    return Server(pid, started_ticks, *where, ready=state in (_READY, _STANDBY), connects=state != _STANDBY)


def _is_of(cluster: Cluster, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(f"/proc/{pid}/cwd", cluster.data_directory)
    return False


def restart(cluster: Cluster, before: Server, seconds: float = START_SECONDS) -> Server:
    """Stop and start a running server, and wait until it is ready, for at most `seconds`.

    MshareError, with the server's output, if it does not come back.
    """
    return _control(cluster, "restart", before, seconds)


def start(cluster: Cluster) -> Server:
    """The same for a stopped server."""
    return _control(cluster, "start", None, START_SECONDS)


def _control(cluster: Cluster, what: str, before: Server | None, seconds: float) -> Server:
    position = log_position(cluster)
    words = [CONTROL, cluster.version, cluster.name, what]
    if systemd_runs() or cluster.plain_unit is not None:
        # The unit ignores a failure of the start, so the result has to be checked anyway.
        words = ["systemctl", what, cluster.unit]
    done = subprocess.run(
        words,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = _came_back(cluster, before, seconds)
    if after is not None:
        return after
    log_text = log_since(cluster, position) or done.stdout.strip() or "nothing"
    raise MshareError(
        f"`{' '.join(words)}` was run (exit code {done.returncode}) and PostgreSQL cluster {cluster.id}"
        f" does not run: {log_text}; see {cluster.log or f'`journalctl --unit {cluster.unit}`'}"
    )


def _came_back(cluster: Cluster, before: Server | None, seconds: float) -> Server | None:
    """The new postmaster, once it takes connections; None if there is none."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server = running(cluster)
        if server is None or same(server, before):
            return None
        if server.ready:
            return server
        time.sleep(_POLL_SECONDS)
    return None


def same(server: Server, other: Server | None) -> bool:
    """Whether it is the same postmaster."""
    return other is not None and (server.pid, server.started_ticks) == (other.pid, other.started_ticks)


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class LogPosition:
    """Where a cluster's log ended, for `log_since`."""

    path: str
    size_bytes: int
    time: float


def log_position(cluster: Cluster) -> LogPosition:
    return LogPosition(cluster.log, _size_bytes(cluster.log), time.time())


def log_since(cluster: Cluster, position: LogPosition, word: str = "") -> str:
    """The last lines of a cluster's log after a position, those with a word in them.

    What a server writes before its logging collector runs is in systemd's journal, but for those that
    pg_ctlcluster starts.
    """
    lines = _journal(cluster.unit, position.time) if cluster.own_unit else []
    path = cluster.log
    begin = position.size_bytes if path == position.path and position.size_bytes <= _size_bytes(path) else 0
    try:
        # Its owner decides where it is: a file that he may not read is nobody's log.
        text = files.read_foreign(path, uids={cluster.uid}, start=begin) or ""
        lines += [line.strip() for line in text.split("\n")]
    except (OSError, files.NotTrusted):
        pass
    return " / ".join([line for line in lines if line and word in line][-_LOG_LINES:])


def _journal(unit: str, since: float) -> list[str]:
    words = [
        "journalctl",
        "--quiet",
        "--no-pager",
        f"--unit={unit}",
        f"--since=@{int(since)}",
        "--output=cat",
    ]
    try:
        asked = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:
        return []
    return [line.strip() for line in asked.stdout.decode("utf-8", "replace").split("\n")]


class Connection:
    """A connection of the cluster's owner, by psql."""

    def __init__(self, cluster: Cluster, server: Server) -> None:
        owner = cluster.owner
        words = [
            cluster.program("psql"),
            "-XAtqw",
            "-h",
            server.sockets,
            "-p",
            server.port,
            "-U",
            owner,
            _DATABASE,
        ]
        groups = os.getgrouplist(owner, cluster.gid)
        self._who = f"psql as {owner} at {server.sockets}, port {server.port}"
        self._process = subprocess.Popen(
            words,
            cwd="/",
            env={
                "LC_ALL": "C.UTF-8",
                "PATH": "/usr/bin:/bin",
                "PGAPPNAME": "mshare",
                "PGCONNECT_TIMEOUT": "30",
            },
            user=cluster.uid,
            group=cluster.gid,
            extra_groups=groups,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.pid = int(self.ask("SELECT pg_backend_pid()"))
        except BaseException:
            self.close()
            raise

    def ask(self, query: str) -> str:
        """The one value that a query answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(query + ";\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if self._process.poll() is not None or not answer or answer.startswith(("ERROR", "psql:")):
            rest = "" if self._process.poll() is None else self._process.stdout.read().strip()
            output = " ".join(part for part in (answer, rest) if part) or "nothing"
            raise MshareError(
                f"{self._who} got no answer to `{query}`: {output}; let the cluster's owner in on the socket"
                " (`local all postgres peer` in pg_hba.conf), or do without connections (probes: 0)"
            )
        return answer

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def connections(cluster: Cluster, server: Server, count: int) -> Iterator[list[Connection]]:
    """So many connections at once; MshareError if the server lets in fewer."""
    with ExitStack() as opened:
        established = []
        for __ in range(count):
            connection = Connection(cluster, server)
            opened.callback(connection.close)
            established.append(connection)
        yield established


def huge_pages_status(connection: Connection) -> str | None:
    """ "on" or "off" of PostgreSQL 17 and later; None of a version that does not tell."""
    answer = connection.ask("SELECT coalesce(current_setting('huge_pages_status', true), 'unknown')")
    return None if answer == "unknown" else answer
