# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host for tests on which commands run under strace, which kills them or makes system calls fail."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from integration import hosts
from rig import huge_pages, patience
from rig.world import LIBRARY

COMMAND = (sys.executable, "-m", "mshare")
ENVIRONMENT = {
    "HOME": "/run",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    # A module's test imports the collection from the clone as well.
    "PYTHONPATH": f"{LIBRARY}:{hosts.COLLECTIONS}",
    "PYTHONSAFEPATH": "1",
    "TERM": "dumb",
}
_WATCHED = (
    *("/run", "/dev/shm", "/usr/local/lib/mshare", "/usr/local/bin/mshare"),
    *("/etc/mshare", "/etc/systemd/system", "/etc/postgresql", "/etc/group", "/etc/gshadow"),
    *("/etc/cron.d", "/etc/passwd", "/etc/shadow", "/etc/subuid", "/var/lib/mshare-monitoring"),
    *("/etc/sysctl.d", "/etc/security/limits.d"),
)
"""Where something of the product can be. Below /etc and /usr/local one sees what others change there."""
_LEFT_BY_OTHERS = {"/run/mount", "/run/mount/utab", "/run/lock", "/etc/mtab"}
_OTHERS = 0o007
_CHANGES_BY_ITSELF = "/run/postgresql/"
"""Pid files of servers that are started again."""


@dataclass(frozen=True)
class Node:
    """What is at a path."""

    mode: int
    uid: int
    gid: int
    digest: str
    """Of a regular file's content; "" for anything else."""

    @property
    def access(self) -> tuple[int, int, int]:
        return stat.S_IFMT(self.mode) | stat.S_IMODE(self.mode), self.uid, self.gid


@dataclass(frozen=True)
class State:
    """All on a machine that the product could have left there."""

    nodes: dict[str, Node]
    processes: tuple[str, ...]
    mounts: tuple[str, ...]

    def differences(self, before: State, *, content: bool = True) -> list[str]:
        """What is not as it was before, one sentence each."""
        found = [f"{path} was left" for path in sorted(set(self.nodes) - set(before.nodes))]
        found += [f"{path} is missing" for path in sorted(set(before.nodes) - set(self.nodes))]
        for path in sorted(set(self.nodes) & set(before.nodes)):
            now, then = self.nodes[path], before.nodes[path]
            if now.access != then.access:
                found.append(f"{path} has {now.access} instead of {then.access}")
            elif content and now.digest != then.digest:
                found.append(f"{path} has another content")
        for name in ("processes", "mounts"):
            now, then = list(getattr(self, name)), list(getattr(before, name))
            for entry in then:
                if entry in now:
                    now.remove(entry)
                else:
                    found.append(f"{name} lack {entry}")
            found += [f"{name} have {entry} in addition" for entry in now]
        return found


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: str
    errors: str
    log: str = field(repr=False, default="")
    """What strace wrote."""


class Machine:
    """Namespaces of its own: nothing of what is done here reaches the machine that the tests run on."""

    def __init__(self, host: hosts.Host, scratch: Path) -> None:
        self.host = host
        self._logs = scratch
        self.has_pool = False
        """Whether the machine's pool of huge pages is this one's alone, and a part of its state."""

    # -- running

    def words(self, *command: str) -> list[str]:
        full = (*COMMAND, *command[1:]) if command[0] == "mshare" else command
        return self.host.command(*full, environment=ENVIRONMENT)

    def run(self, *command: str) -> Done:
        return _finish(_start(self.words(*command)))

    def traced(
        self,
        command: Sequence[str],
        options: Sequence[str],
        meanwhile: Callable[[Staying], None] | None = None,
    ) -> Done:
        """Run a command under strace; `meanwhile` is called with one that stays, and has it end."""
        full = (*COMMAND, *command[1:]) if command[0] == "mshare" else tuple(command)
        log = self._logs / "strace.log"
        log.write_text("")
        words = self.host.command(
            "strace", "-qq", "-s", "200", "-y", "-o", str(log), *options, *full, environment=ENVIRONMENT
        )
        process = _start(words)
        if meanwhile is not None:
            meanwhile(Staying(self, process, full))
        done = _finish(process)
        return Done(done.code, done.output, done.errors, log.read_text(errors="replace"))

    # -- looking

    def inside(self, path: str) -> Path:
        return self.host.inside(path)

    def processes(self) -> dict[int, str]:
        return self.host.processes()

    def state(self) -> State:
        nodes = dict(self._nodes())
        if self.has_pool:
            # As a name, for it is no matter of content.
            nodes[f"a pool of {huge_pages.count()} huge pages"] = Node(0, 0, 0, "")
        mounts = [line.split()[4] for line in self.inside("/proc/1/mountinfo").read_text().splitlines()]
        return State(nodes, tuple(sorted(self.processes().values())), tuple(sorted(mounts)))

    def _nodes(self) -> Iterator[tuple[str, Node]]:
        outside = str(self.inside("/")).rstrip("/")
        for top in _WATCHED:
            yield from _node(outside + top, top)
            for directory, folders, files in os.walk(outside + top):
                for name in (*folders, *files):
                    path = os.path.join(directory, name)
                    shown = path[len(outside) :]
                    if shown not in _LEFT_BY_OTHERS:
                        yield from _node(path, shown)

    def pid_of(self, words: str) -> int:
        """The pid, on the machine, of a process with these words in its command line."""
        for pid, line in self.processes().items():
            if words in line:
                text = Path(f"/proc/{pid}/status").read_text()
                return int(re.findall(r"^NSpid:.*\t(\d+)$", text, re.M)[0])
        raise LookupError(words)

    def settle(self) -> None:
        """Wait until no command of the product runs any more: its owners and launchers stay."""

        def settled() -> bool:
            return not any(_comes_and_goes(line) for line in self.processes().values())

        patience.eventually(settled, lambda: f"these do not end: {self.processes()}")

    def quiet(self, expected: Sequence[str] = ()) -> bool:
        """Wait until nothing runs but what is expected; False if something stays, or is missing."""
        try:
            patience.eventually(lambda: sorted(self.processes().values()) == list(expected))
        except AssertionError:
            return False
        return True

    def end_processes(self, expected: Sequence[str] = ()) -> None:
        """End what is not expected, for the next try, where this one has left something."""
        for pid, line in self.processes().items():
            if line not in expected:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        patience.eventually(lambda: all(line in expected for line in self.processes().values()))


class Staying:
    """A command that runs until it is told to end."""

    def __init__(self, machine: Machine, process: subprocess.Popen[str], words: Sequence[str]) -> None:
        self._machine = machine
        self._process = process
        self._line = " ".join(words)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def status(self, role: str) -> str | None:
        """The state in its status file."""
        path = self._machine.inside(f"/run/mshare/run-msharefs/sga.{role}.json")
        try:
            state: str = json.loads(path.read_text())["state"]
        except (OSError, ValueError, KeyError):
            return None
        return state

    def listens(self) -> bool:
        """Whether there is a socket of a keeper of files."""
        return any(self._machine.inside("/run/mshare").glob("files-*.sock"))

    def end_when(self, is_ready: Callable[[], bool], meanwhile: Sequence[str] = ()) -> None:
        """SIGTERM, once it is ready (or has not become that within some looks) and a command has run."""
        with suppress(AssertionError):
            patience.eventually(lambda: self.ended or is_ready())
        if meanwhile:
            self._machine.run(*meanwhile)
        for pid, line in self._machine.processes().items():
            if line.strip() == self._line:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def _comes_and_goes(line: str) -> bool:
    words = line.split()
    if os.path.basename(words[0]) in ("useradd", "userdel"):
        return True
    if "mshare" not in words:
        return False
    command = words[words.index("mshare") + 1 :]
    return command[:1] != ["own"] and command[:2] != ["clients", "run"]


def _node(path: str, shown: str) -> Iterator[tuple[str, Node]]:
    try:
        status = os.lstat(path)
        digest = ""
        changes = shown.startswith(_CHANGES_BY_ITSELF)
        if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20 and not changes:
            digest = _digest(path, status.st_dev, status.st_ino, status.st_ctime_ns)
    except OSError:
        return
    yield shown, Node(status.st_mode, status.st_uid, status.st_gid, digest)


@functools.lru_cache(maxsize=1 << 16)
def _digest(path: str, device: int, inode: int, changed_ns: int) -> str:
    """Of a file's content; the other arguments say whether it is the one that was read before."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _start(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str]) -> Done:
    try:
        output, errors = process.communicate(timeout=patience.HANG_SECONDS)
    except BaseException:
        process.kill()
        raise
    return Done(process.returncode, output, errors)


@contextmanager
def new_machine() -> Iterator[Machine]:
    """A machine with nothing of the product on it; OSError where this one cannot have such."""
    if shutil.which("strace") is None:
        raise OSError("strace is not here (Debian: strace)")
    with tempfile.TemporaryDirectory(prefix="mshare-prove-") as directory:
        scratch = Path(directory)
        (scratch / "host").mkdir()
        (scratch / "logs").mkdir()
        with hosts.host(scratch / "host") as (host, reason):
            if reason is not None:
                raise OSError(reason)
            yield Machine(host, scratch / "logs")


_WRITER = re.compile(r"/\.([^/]+)\.[0-9a-f]{16}\.new$")
"""A file that is being written, before it gets its name."""


def unfinished(state: State) -> list[str]:
    """What killed writers left."""
    return [path for path in state.nodes if _WRITER.search(path)]


def _within(access: tuple[int, int, int], allowed: tuple[int, int, int]) -> bool:
    """Whether a file of the same owner and group is open to nobody whom another one is not open to."""
    mode, *owner = access
    return owner == list(allowed[1:]) and not mode & ~allowed[0]


def exposed(now: State, known: Mapping[str, Set[tuple[int, int, int]]]) -> list[str]:
    """Files that others may read or write, or that belong to somebody, as no undisturbed run leaves them."""
    found = []
    for path, node in now.nodes.items():
        closed = not node.mode & _OTHERS and (node.uid, node.gid) == (0, 0)
        allowed = known.get(_WRITER.sub(r"/\1", path), set())
        # A successor that is not ready yet may be closed to more than the file that it becomes.
        fits = any(_within(node.access, access) for access in allowed)
        if not closed and not stat.S_ISLNK(node.mode) and not fits:
            found.append(f"{path} has mode {stat.S_IMODE(node.mode):04o} of {node.uid}:{node.gid}")
    return found
