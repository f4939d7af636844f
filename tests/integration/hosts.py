# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host on which tests run playbooks, and what a run of a playbook gave."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rig import patience
from rig.patience import HANG_SECONDS

Task = dict[str, Any]

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
COLLECTIONS = REPOSITORY / ".venv" / "collections"
_PROGRAMS = Path(sys.executable).parent

# What groupadd itself leaves behind: backups of the files that it changes, and its lock.
_GROUPADD_LEAVES = {f"/etc/{name}" for name in ("group-", "gshadow-", ".pwd.lock")}
# Where something of ours could be.
_LOOKED_AT = ("/run", "/etc", "/usr/local", "/dev/shm")


@dataclass(frozen=True)
class Result:
    """What a task gave on a host."""

    host: str
    task: str
    status: str
    """ "ok", "failed", "ignored" (failed, and the play went on) or "unreachable" """
    fields: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    @property
    def failed(self) -> bool:
        return self.status != "ok"

    @property
    def returned(self) -> set[str]:
        """The names of a module's own results, without those of Ansible."""
        common = {"changed", "diff", "failed", "msg", "invocation", "warnings", "deprecations", "exception"}
        return {key for key in self.fields if key not in common and not key.startswith("_ansible")}

    def sides(self, side: str) -> dict[str, Any]:
        """A side of the diff ("before", "after"), read back: what the pair of texts is of -> its fields."""
        diff = self.fields["diff"]
        pairs = diff if isinstance(diff, list) else [diff]
        return {pair[f"{side}_header"]: yaml.safe_load(pair[side]) for pair in pairs}


@dataclass(frozen=True)
class Run:
    """What a run of a playbook gave."""

    exit_code: int
    output: str
    seconds: float
    results: list[Result] = field(default_factory=list)
    recaps: dict[str, dict[str, int]] = field(default_factory=dict)
    """By host."""

    @property
    def recap(self) -> dict[str, int]:
        """Of a run on one host."""
        (recap,) = self.recaps.values() or [{}]
        return recap

    def on(self, host: str) -> Run:
        """What it gave on one of several hosts."""
        results = [result for result in self.results if result.host == host]
        return replace(self, results=results, recaps={host: self.recaps.get(host, {})})

    def __getitem__(self, task: str) -> Result:
        """The result of the task of that name, or whose name ends with it, as roles put theirs before it."""
        found = [result for result in self.results if result.task.split(" : ")[-1] == task]
        assert len(found) == 1, f"{len(found)} tasks {task!r} in\n{self.output}"
        return found[0]

    def succeeded(self) -> Run:
        assert self.exit_code == 0, self.output
        return self

    @property
    def said(self) -> str:
        """The sentence with which the run failed."""
        (failure,) = (result for result in self.results if result.status == "failed")
        return failure["msg"]


class Host:
    """A host of its own, as far as processes, mounts, /run, /etc and /usr/local go."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._runs = 0
        self._first: subprocess.Popen[str] | None = None

    @property
    def _unshared(self) -> int:
        assert self._first is not None
        return self._first.pid

    # -- from its beginning to its end

    def start(self) -> str | None:
        """Begin; or the reason why this machine cannot have such a host."""
        if os.geteuid() != 0:
            return "playbooks are tested as root, in namespaces of their own"
        inside = self.scratch / "inside"
        inside.mkdir()
        self._first = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("--propagation", "private"),
                *(sys.executable, str(HERE / "first_process.py"), str(inside)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._first.stdout is not None
        if self._first.stdout.readline() == "ready\n":
            return None
        said = self._first.communicate()[1].strip()
        return f"no namespaces with mounts of their own on this machine: {said}"

    def end(self) -> None:
        """End all that runs on it."""
        if self._first is not None:
            self._first.communicate()

    # -- what is done on it

    def command(self, *words: str, environment: dict[str, str] | None = None) -> list[str]:
        """A command line that runs another one on this host."""
        of = f"/proc/{self._unshared}/ns"
        settings = [f"{name}={value}" for name, value in (environment or {}).items()]
        enter = ["nsenter", f"--mount={of}/mnt", f"--pid={of}/pid_for_children", f"--wd={self.scratch}"]
        return [*enter, "env", "-i", *settings, *words]

    def do(self, *words: str) -> str:
        """Run a command that has to succeed."""
        path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            self.command(*words, environment=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def playbook(
        self,
        playbook: str,
        *flags: str,
        variables: dict[str, Any] | None = None,
        collections: Path = COLLECTIONS,
        umask: str = "022",
    ) -> Run:
        """Run a playbook, by its file or its full name."""
        return self.start_playbook(
            playbook, *flags, variables=variables, collections=collections, umask=umask
        ).finish()

    def start_playbook(
        self,
        playbook: str,
        *flags: str,
        variables: dict[str, Any] | None = None,
        collections: Path = COLLECTIONS,
        umask: str = "022",
    ) -> Running:
        self._runs += 1
        record = self.scratch / f"run-{self._runs}.jsonl"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "record",
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_INJECT_FACT_VARS": "False",
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_NOCOWS": "True",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "RECORD_TO": str(record),
        }
        with_umask = ["sh", "-c", f'umask {umask} && exec "$@"', "sh"]
        program = str(_PROGRAMS / "ansible-playbook")
        words = [*with_umask, program, playbook, "-i", "localhost,", "-c", "local", *flags]
        if variables:
            words += ["-e", json.dumps(variables)]
        return Running(self.command(*words, environment=environment), record)

    def play(self, tasks: Sequence[Task], *flags: str, **keys: Any) -> Run:
        """Run a playbook of one play with tasks; keys are those of the play."""
        path = self.scratch / f"play-{self._runs + 1}.json"
        play = {"hosts": "localhost", "gather_facts": False, **keys, "tasks": list(tasks)}
        path.write_text(json.dumps([play], indent=1))
        return self.playbook(str(path), *flags)

    # -- what is there

    def inside(self, path: str) -> Path:
        """Where a path of the host is found from outside."""
        return Path(f"/proc/{self._unshared}/root{path}")

    def processes(self) -> dict[int, str]:
        """What runs on it besides its first process, as pid (outside) and command line."""
        mine = os.readlink(f"/proc/{self._unshared}/ns/pid_for_children")
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns" / "pid") == mine:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # It has ended meanwhile.
        return {pid: line for pid, line in found.items() if "first_process.py" not in line and line}

    def kill(self, *pids: int) -> None:
        """Kill processes by the pids they have on the host, as kill -9 does."""
        self.do("kill", f"-{signal.SIGKILL.value}", *map(str, pids))

    def snapshot(self) -> list[str]:
        """Every process, mount, path and group that something of ours could be."""
        mounts = (line.split(" ", 5)[4] for line in self._lines("/proc/1/mountinfo"))
        groups = (line.split(":")[0] for line in self._lines("/etc/group"))
        return [
            *sorted(f"process {line}" for line in self.processes().values()),
            *sorted(f"mount {path}" for path in mounts),
            *sorted(f"path {path}" for path in self._paths()),
            *sorted(f"group {name}" for name in groups),
        ]

    def changed_since(self, before: list[str]) -> list[str]:
        """What a snapshot does not show any more, and what it did not show yet."""
        return differences(before, self.snapshot())

    def _lines(self, path: str) -> list[str]:
        return self.inside(path).read_text().splitlines()

    def _paths(self) -> Iterator[str]:
        outside = str(self.inside("/")).rstrip("/")
        for top in _LOOKED_AT:
            for directory, folders, files in os.walk(outside + top):
                for name in [*folders, *files]:
                    path = os.path.join(directory, name)[len(outside) :]
                    if path not in _GROUPADD_LEAVES:
                        yield path


def differences(before: list[str], after: list[str]) -> list[str]:
    """Lines of a diff between two snapshots."""
    return [line for line in difflib.ndiff(before, after) if line[0] in "-+"]


class Running:
    """A playbook that runs."""

    def __init__(self, words: list[str], record: Path, environment: dict[str, str] | None = None) -> None:
        self._record = record
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def finish(self) -> Run:
        try:
            output = self._process.communicate(timeout=HANG_SECONDS)[0]
        except BaseException:
            self._process.kill()
            raise
        seconds = time.monotonic() - self._started
        results, recaps = [], {}
        for line in self._record.read_text().splitlines() if self._record.exists() else []:
            entry = json.loads(line)
            if "recap" in entry:
                recaps = entry["recap"]
            else:
                results.append(Result(entry["host"], entry["task"], entry["status"], entry["result"]))
        return Run(self._process.returncode, output, seconds, results, recaps)


@contextmanager
def host(scratch: Path) -> Iterator[tuple[Host, str | None]]:
    """A host, and the reason why it cannot be had, if there is one."""
    one = Host(scratch)
    try:
        yield one, one.start()
    finally:
        one.end()
        shutil.rmtree(scratch, ignore_errors=True)


def eventually(condition: Any, what: str) -> None:
    """Wait for what a host does by itself."""
    patience.eventually(condition, f"waited in vain: {what}")
