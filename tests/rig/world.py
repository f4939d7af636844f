# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated msharefs, configuration and state of its own, and the command line as real processes in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mshare.backends.simulated.layout import Layout
from rig import patience
from rig.debian import cache_dir

PATIENCE_SECONDS = 20
# Longer than a command's own patience (120 s for a lock): what it says in the end is to be seen.
COMMAND_PATIENCE_SECONDS = 150
LIBRARY = Path(__file__).parents[2] / "lib"
COMMAND = [sys.executable, "-m", "mshare"]
NOBODY = 65534

Done = subprocess.CompletedProcess  # of str

# Becomes an ordinary user only once everything is imported: nobody may look into a developer's home.
AS_NOBODY = f"""
import importlib, os, pkgutil, sys
import rich.console, rich.table, mshare
for module in pkgutil.walk_packages(mshare.__path__, "mshare."):
    if not module.name.endswith((".build_libc", ".__main__")):
        importlib.import_module(module.name)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from mshare.cli import main
main()
"""


_ONE_BY_ONE = """
import json, subprocess, sys
done = [subprocess.run(words, capture_output=True, text=True) for words in json.loads(sys.argv[1])]
print(json.dumps([(each.args, each.returncode, each.stdout, each.stderr) for each in done]))
"""


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.config = directory / "etc"
        self.state = directory / "run"
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("MSHARE_", "_MSHARE"))
        }
        self.environment = {
            **inherited,
            "PYTHONPATH": str(LIBRARY),
            "MSHARE_CONFIG_DIR": str(self.config),
            "MSHARE_STATE_DIR": str(self.state),
            # Built once for all tests. This machine's own shows through in test hosts that are laid over it.
            "MSHARE_CACHE_DIR": str(cache_dir("built")),
            "MSHARE_ROOT": str(self.root),
            "TERM": "dumb",
            # SIGABRT makes each of them say where it is: `_explained` asks with it.
            "PYTHONFAULTHANDLER": "1",
        }

    # -- running

    def run(self, *arguments: str, command: list[str] | None = None, **options: Any) -> Done[str]:
        words = [*(command or COMMAND), *arguments]
        environment = {**self.environment, **options.pop("env", {})}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(words, env=environment, cwd="/", **pipes, **options) as process:
            try:
                output = _output(process, COMMAND_PATIENCE_SECONDS)
                assert output is not None, self._explained(process)
            finally:
                process.kill()
        return subprocess.CompletedProcess(words, process.returncode, *output)

    def _explained(self, process: subprocess.Popen[str]) -> str:
        """What a command that does not end, and every process it may be waiting for, is doing; ends them."""
        states = [f"{path}: {path.read_text()}" for path in self.state.rglob("*.json")]
        others = sorted({*self.processes()} - {process.pid})
        waits = [f"{pid} in {_wait_channel(pid)}" for pid in (process.pid, *others)]
        # The command first: when another ends, it would go on.
        for pid in (process.pid, *reversed(others)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        output: Sequence[str] = _output(process, PATIENCE_SECONDS) or ()
        time.sleep(1)  # For the others to write their logs.
        logs = [f"{path}: {path.read_text()}" for path in self.state.rglob("*.log")]
        return "\n".join([f"{process.args!r} did not end", *output, *waits, *states, *logs])

    def run_as_nobody(self, *arguments: str) -> Done[str]:
        return self.run(*arguments, command=[sys.executable, "-c", AS_NOBODY])

    def run_in_mount_namespace(self, *commands: list[str]) -> list[Done[str]]:
        """Several commands, and nothing of their mounts outside. Commands of ours begin with "mshare"."""
        lines = [[*COMMAND, *words[1:]] if words[0] == "mshare" else words for words in commands]
        done = self.run(json.dumps(lines), command=["unshare", "-m", sys.executable, "-c", _ONE_BY_ONE])
        assert done.returncode == 0, done.stderr
        return [subprocess.CompletedProcess(*words) for words in json.loads(done.stdout)]

    def ok(self, *arguments: str, **options: Any) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stderr == ""
        return done.stdout

    def json(self, *arguments: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.ok("--json", *arguments, **options))
        assert answer["schema_version"] in (1, 2)
        return answer

    @contextlib.contextmanager
    def started(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """A command that stays."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**self.environment, **options.pop("env", {})}
        with subprocess.Popen(
            [*COMMAND, *arguments], env=environment, cwd="/", text=True, **options
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @contextlib.contextmanager
    def owned(self, name: str = "sga", *options: str) -> Iterator[subprocess.Popen[str]]:
        """A region with an owner that is a child of ours, so that it can be watched and killed."""
        with self.started("own", name, *(options or ("--size", "64MiB", "--pattern"))) as process:
            eventually(lambda: self.health(name) == "healthy")
            yield process

    # -- looking

    def region(self, name: str = "sga") -> dict[str, Any]:
        regions = self.json("list")["regions"]
        return next((each for each in regions if each["name"] == name), {"health": None})

    def health(self, name: str = "sga") -> str | None:
        health: str | None = self.region(name)["health"]
        return health

    def processes(self) -> list[int]:
        """The living processes that were started in this world."""
        mark = f"MSHARE_STATE_DIR={self.state}\0".encode()
        pids = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry)
                if mark in Path(f"/proc/{pid}/environ").read_bytes():
                    pids.append(pid)
        return pids

    def files(self) -> list[str]:
        """What there is of regions and specs: names relative to the world."""
        return sorted(
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if path.is_file() and path.name not in ("mshare_info", "layout.json", "converge.lock")
        )

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.processes())
        for record in self.state.rglob("*.cgroup"):
            with contextlib.suppress(OSError):
                os.rmdir(record.read_text().strip())


# Patience is counted in looks and not by the clock: a machine that is paused meanwhile has lost nothing.


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until something is so; fail where it does not come."""
    patience.eventually(is_so)


def _wait_channel(pid: int) -> str:
    """Where in the kernel a process waits."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return "nothing: it has ended"


def _output(process: subprocess.Popen[str], patience_seconds: int) -> tuple[str, str] | None:
    """What a process has said by its end; None where it does not end."""
    for __ in range(patience_seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=1)
    return None


@contextlib.contextmanager
def new_world(generation: str = "2025-08") -> Iterator[World]:
    """On the tmpfs that everybody has, laid out without a mount: that takes no root."""
    directory = Path(tempfile.mkdtemp(prefix="mshare-cli-", dir="/dev/shm"))
    directory.chmod(0o755)
    world = World(directory)
    try:
        world.root.mkdir()
        Layout.create(str(world.root), generation).set_access(0o1777, -1)
        yield world
    finally:
        world.end()
        shutil.rmtree(directory)
