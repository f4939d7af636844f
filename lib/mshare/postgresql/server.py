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
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .. import files
from ..errors import Conflict, MshareError
from ..host import processes, procfs
from ..host.processes import Vanished
from ..services.choose import systemd_runs
from .clusters import CONTROL, Cluster
from .managers import units
from .managers.units import Unit
from .spec import START_SECONDS

_DATABASE = "postgres"
_POLL_SECONDS = 0.1
_LOG_LINES = 12
_AT_SECURE = 23
_CONFINED = re.compile(r"(.+) \((?:enforce|kill|mixed)\)\s*\Z")
# Lines of postmaster.pid.
_PORT, _SOCKETS, _SHARED_MEMORY, _STATE = 3, 4, 6, 7
# Before this version there is no line for the state: the one before is written once the memory is there, and
# pg_ctl waits for the rest.
_WRITES_STATE = 10
# A standby with hot_standby = off is up and takes no connections.
_READY, _STANDBY = "ready", "standby"
# What a unit is in that has nothing more to start: its ExecStart is done, or systemd waits to try again.
_AT_REST = ("exited", "auto-restart", "auto-restart-queued")
_PATIENT_MODE = re.compile(r"(?:\s-m|--mode)[\s=]*s(?:mart)?\b")
_PATIENT_KILL = re.compile(r"\bkill (?:-s ?)?-?(?:SIG)?(?:TERM|15)?\s*\$?\{?MAINPID")
_TERM = "15"


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

    def profile(self) -> str | None:
        """The profile by which AppArmor confines it; None where it is not confined, or only watched
        ("complain"), and with other security modules, whose contexts have no mode behind them."""
        with contextlib.suppress(OSError):
            match = _CONFINED.match(procfs.read(f"/proc/{self.pid}/attr/current") or "")
            return match[1] if match else None
        return None

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
    ready = state in (_READY, _STANDBY)
    if int(cluster.version.partition(".")[0]) < _WRITES_STATE:
        ready = bool(fields[_SHARED_MEMORY].strip())
    return Server(pid, started_ticks, *where, ready=ready, connects=state != _STANDBY)


def _is_of(cluster: Cluster, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(f"/proc/{pid}/cwd", cluster.data_directory)
    return False


def library_path(cluster: Cluster) -> dict[str, str]:
    """The variable without which some programs of a cluster do not run, as its server has it."""
    found = running(cluster)
    with contextlib.suppress(OSError, Vanished):
        if found is not None:
            return {key: value for key, value in found.environment().items() if key == "LD_LIBRARY_PATH"}
    return {}


def require_restartable(cluster: Cluster) -> None:
    """Conflict where systemd would not restart a running server, or only once every client has left it."""
    if not systemd_runs():
        return
    unit = units.describe(cluster.unit)
    if unit.loaded not in ("", "loaded") or unit.refused:
        reason = f"its LoadState is {unit.loaded}"
        if unit.refused:
            reason = f"{unit.refused[0]}=yes"
        raise Conflict(
            f"unit {unit.name}, which is to restart PostgreSQL cluster {cluster.id}, cannot be restarted"
            f" ({reason}), so nothing was changed; put that right (systemctl unmask, systemctl edit), and run"
            " this again"
        )
    how = _waits_for_clients(unit)
    if how is not None and cluster.patroni is None:
        limit = "for ever" if unit.stop_seconds is None else f"for {unit.stop_seconds:g} s, then it is killed"
        raise Conflict(
            f"unit {unit.name} stops PostgreSQL cluster {cluster.id} by a smart shutdown ({how}), which lets"
            f" nobody in and waits until the last client has left ({limit}), so nothing was changed; have it"
            " stop fast (KillSignal=SIGINT, or pg_ctl stop -m fast, in a drop-in), and run this again"
        )


def _waits_for_clients(unit: Unit) -> str | None:
    """By what a unit asks for a smart shutdown; None where it does not."""
    if unit.stops:
        match = _PATIENT_MODE.search(unit.stops) or _PATIENT_KILL.search(unit.stops)
        return f"ExecStop= has {match[0].strip()}" if match else None
    mode, signal = unit.kill
    # With control-group its backends get the signal as well, and end by it.
    return f"KillMode={mode} with SIGTERM" if mode in ("mixed", "process") and signal == _TERM else None


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
    done = _run(words)
    after = _came_back(cluster, before, seconds)
    if after is not None:
        return after
    if before is not None and same(before, running(cluster)):
        raise MshareError(
            f"`{' '.join(words)}` was run (exit code {done.returncode}) and did not stop postmaster"
            f" {before.pid} of PostgreSQL cluster {cluster.id}: {done.stdout.strip() or 'nothing'}"
        )
    log_text = log_since(cluster, position) or done.stdout.strip() or "nothing"
    raise MshareError(
        f"`{' '.join(words)}` was run (exit code {done.returncode}) and PostgreSQL cluster {cluster.id}"
        f" does not run: {log_text}; see {cluster.log or f'`journalctl --unit {cluster.unit}`'}"
    )


def forget_failures(cluster: Cluster) -> None:
    """Have systemd start a unit that has failed too often of late: one with Restart= does soon."""
    if systemd_runs():
        _run(["systemctl", "reset-failed", cluster.unit])


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _came_back(cluster: Cluster, before: Server | None, seconds: float) -> Server | None:
    """The new postmaster, once it takes connections; None if there is none."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server = running(cluster)
        if server is None and not _is_coming(cluster):
            # It may have written its file in between.
            server = running(cluster)
            return server if server is not None and server.ready else None
        if server is not None and same(server, before):
            return None
        if server is not None and server.ready:
            return server
        time.sleep(_POLL_SECONDS)
    return None


def _is_coming(cluster: Cluster) -> bool:
    """Whether a unit runs a server that has not written its file yet: systemd does not wait for one of
    Type=simple."""
    if cluster.plain_unit is None:
        return False
    state, detail = units.state(cluster.plain_unit)
    return state in ("active", "activating") and detail not in _AT_REST


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
            _reachable(server),
            "-p",
            server.port,
            "-U",
            owner,
            _DATABASE,
        ]
        groups = os.getgrouplist(owner, cluster.gid)
        self._who = f"psql as {owner} at {server.sockets}, port {server.port}"
        try:
            self._process = subprocess.Popen(
                words,
                cwd="/",
                env={
                    "LC_ALL": "C.UTF-8",
                    "PATH": "/usr/bin:/bin",
                    "PGAPPNAME": "mshare",
                    "PGCONNECT_TIMEOUT": "30",
                    **library_path(cluster),
                },
                user=cluster.uid,
                group=cluster.gid,
                extra_groups=groups,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except OSError as error:
            raise MshareError(
                f"{words[0]} cannot be run ({error.strerror}), by which page tables of connections are"
                " measured; install it there, or do without connections (probes: 0)"
            ) from None
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


def _reachable(server: Server) -> str:
    """The folder of a server's socket, as this process reaches it: a unit may have a /tmp of its own."""
    inside = f"/proc/{server.pid}/root{server.sockets}"
    try:
        is_here = not server.sockets.startswith("/") or os.path.samefile(inside, server.sockets)
    except OSError:
        is_here = not os.path.isdir(inside)
    return server.sockets if is_here else inside


@contextmanager
def connections(
    cluster: Cluster, server: Server, count: int, *, fewer: bool = False
) -> Iterator[list[Connection]]:
    """So many connections at once; MshareError if the server lets in fewer, unless these will do."""
    with ExitStack() as opened:
        established: list[Connection] = []
        for __ in range(count):
            try:
                connection = Connection(cluster, server)
            except MshareError:
                if fewer:
                    break
                raise
            opened.callback(connection.close)
            established.append(connection)
        yield established


def huge_pages_status(connection: Connection) -> str | None:
    """ "on" or "off" of PostgreSQL 17 and later; None of a version that does not tell."""
    answer = connection.ask("SELECT coalesce(current_setting('huge_pages_status', true), 'unknown')")
    return None if answer == "unknown" else answer
