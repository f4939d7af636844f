# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations that are disturbed: what has to be there before, the command, and what ends it all."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass

from mshare import paths
from mshare.runtime import sources
from prove.machine import COMMAND, Machine

Command = tuple[str, ...]

REGION_SIZE = "64MiB"
MOUNT: Command = ("mshare", "mount", "--backend", "simulated", "--size", "256MiB")
UMOUNT: Command = ("mshare", "umount", "--force", "--root", "/run/msharefs")
CREATE: Command = ("mshare", "create", "sga", "--backend", "simulated", "--size", REGION_SIZE, "--pattern")
REMOVE: Command = ("mshare", "rm", "sga", "--force")
START: Command = ("mshare", "clients", "start", "sga", "--count", "2", "--span", "4MiB")
PROGRAM: Command = (
    *("mshare", "clients", "start", "sga", "--count", "2", "--settle-seconds", "1", "--"),
    *("sh", "-c", "sleep 3600 & sleep 3600"),
)
REPLACE: Command = (*CREATE, "--replace-stale")

FOLDER = "/run/prove"
SURVEY = f"{FOLDER}/host.json"
_MODULES = "ansible_collections.dbmem.mshare.plugins.modules"
_MODULE = f"{_MODULES}.mshare_runtime"
_RUNTIMES = {
    "present": {"state": "present"},
    "preload": {"state": "present", "preload": True},
    "absent": {"state": "absent"},
}
PRELOAD: Command = (sys.executable, "-m", _MODULE, f"{FOLDER}/preload.json")
RUNTIME: Command = (sys.executable, "-m", _MODULE, f"{FOLDER}/present.json")


_SURVEYS = {
    "survey": {"state": "present", "directory": f"{FOLDER}/textfiles"},
    "no-survey": {"state": "absent"},
}
_REMEDIES: dict[str, dict[str, object]] = {
    "remedy": {"remedy": "native", "restart": True, "probes": 2},
    "no-remedy": {"state": "absent", "restart": True, "probes": 2},
}
METRICS = f"{FOLDER}/metrics/mshare.prom"


@dataclass(frozen=True)
class Operation:
    """One thing that a user does."""

    name: str
    words: Command
    before: tuple[Command, ...] = ()
    """What was done before, undisturbed."""
    again: Command | None = None
    """How it is repeated after it was killed, where that is not done with the same words."""
    end: tuple[Command, ...] = (UMOUNT,)
    """What has to end everything, whatever happened."""
    role: str | None = None
    """Of one that stays: the name of its status file."""
    undone: bool = False
    """Whether a failure leaves what was there before."""
    module: bool = False
    """Whether it is a module, which answers in JSON."""
    waits: str | None = None
    """A shell's words that start what it needs to work on, and stay."""
    asked: Command = ()
    """What is asked of one that stays, once it listens."""


def command_lines() -> list[Operation]:
    """Those of the command line and of the processes that stay."""
    region = (MOUNT, CREATE)
    clients = (*region, START)
    own = ("mshare", "own", *CREATE[2:])
    run = ("mshare", "clients", "run", *START[3:])
    return [
        Operation("mount", MOUNT, undone=True),
        Operation("umount", ("mshare", "umount"), (MOUNT,)),
        Operation("umount --force", UMOUNT, clients),
        Operation("create", CREATE, (MOUNT,), again=REPLACE, undone=True),
        Operation("rm", ("mshare", "rm", "sga"), region),
        Operation("rm --force", REMOVE, clients),
        Operation("list", ("mshare", "list"), clients),
        Operation("info", ("mshare", "info"), clients),
        Operation("stat", ("mshare", "stat", "sga"), clients),
        Operation("map", ("mshare", "map", "sga", "--offset", "1GiB", "--size", "1MiB", "--replace"), region),
        Operation("attach", ("mshare", "attach", "sga", "--touch", "8MiB"), region),
        Operation("clients start", START, region, undone=True),
        Operation("clients start COMMAND", PROGRAM, region, undone=True),
        Operation("clients stop", ("mshare", "clients", "stop", "sga"), clients),
        Operation("clients stop COMMAND", ("mshare", "clients", "stop", "sga"), (*region, PROGRAM)),
        Operation("validate", ("mshare", "validate", "sga", "--span", "4MiB"), clients),
        Operation("owner", own, (MOUNT,), again=REPLACE, role="owner"),
        Operation("launcher", run, region, again=START, role="clients"),
        Operation(
            "keep-files",
            ("mshare", "keep-files"),
            (MOUNT,),
            again=(sys.executable, "-c", _KEPT_ONCE),
            role="keeper",
            asked=(sys.executable, "-c", _FILE),
        ),
        Operation("survey", ("mshare", "survey"), region),
        Operation("survey --json", ("mshare", "--json", "survey"), region),
        Operation("plan", ("mshare", "plan", SURVEY), (), end=()),
        Operation("report", ("mshare", "report", SURVEY, "--folder", f"{FOLDER}/report"), (), end=()),
        Operation(
            "collapse",
            ("mshare", "collapse", "TARGET"),
            (),
            end=(),
            waits=_SHARED,
        ),
    ]


# What a program of `mshare run --files` asks of the keeper: a region for a file, which it has for a moment.
_FILE = f"""
import glob, os, socket
from mshare.preload.keeper import ANSWER, QUESTION, VERSION
fd = os.open("{FOLDER}/data", os.O_RDWR)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as keeper:
    keeper.settimeout(20)
    keeper.connect(glob.glob("/run/mshare/files-*.sock")[0])
    socket.send_fds(keeper, [QUESTION.pack(VERSION, 1, 0, 1 << 20)], [fd])
    answer, fds, __, __ = socket.recv_fds(keeper, ANSWER.size, 1)
    assert len(fds) == 1, answer
"""
_KEPT_ONCE = f"""
import glob, os, signal, subprocess, sys, time
kept = subprocess.Popen([sys.executable, "-m", "mshare", "keep-files"], stdout=subprocess.PIPE)
assert kept.stdout.readline(), "it listens"
exec({_FILE!r})
os.close(fds[0])
kept.send_signal(signal.SIGTERM)
sys.exit(kept.wait())
"""
# What collapse works on: shared memory that begins where huge pages fit, 8 MiB of it in use.
_SHARED = (
    "import ctypes, time; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p;"
    "a = c.mmap(ctypes.c_void_p(1 << 40), ctypes.c_size_t(64 << 20), 3, 0x100021, -1, ctypes.c_long(0));"
    "ctypes.memset(a, 1, 8 << 20); print('ready', flush=True); time.sleep(3600)"
)


def runtime() -> list[Operation]:
    """The library onto a host and off it again, by the module."""
    remove = (*RUNTIME[:-1], f"{FOLDER}/absent.json")
    return [
        Operation("mshare_runtime present", RUNTIME, (), end=(remove,), module=True),
        Operation("mshare_runtime absent", remove, (RUNTIME,), end=(remove,), module=True),
    ]


def monitoring() -> list[Operation]:
    """The surveys for Prometheus onto a host and off it again, by the module, and one of them."""
    module = (sys.executable, "-m", f"{_MODULES}.mshare_monitoring")
    present, absent = ((*module, f"{FOLDER}/{name}.json") for name in _SURVEYS)
    end = (absent, (*RUNTIME[:-1], f"{FOLDER}/absent.json"))
    exporter = ("mshare", "survey", "--prometheus", "--output", METRICS)
    return [
        Operation("mshare_monitoring present", present, (RUNTIME,), end=end, module=True),
        Operation("mshare_monitoring absent", absent, (RUNTIME, present), end=end, module=True),
        # The next survey removes what a killed one has left of writing the file.
        Operation("survey --prometheus --output", exporter, (), end=(exporter, ("rm", METRICS))),
    ]


def huge_pages() -> list[Operation]:
    """Pages into the machine's pool and back, with files for the next boot and a limit, by the module."""
    return _there_and_back("mshare_huge_pages", "pool", "absent-only")


def prepare_pool(machine: Machine, pages: int) -> None:
    """Arguments for a pool that has so many pages."""
    wanted = {
        "pages": [{"size": "2MiB", "wanted": str(pages + 4)}],
        "memlock": [{"user": "postgres", "limit": "1GiB"}],
    }
    for name, more in (("pool", wanted), ("absent-only", {"state": "absent"})):
        text = json.dumps({"ANSIBLE_MODULE_ARGS": more})
        machine.inside(f"{FOLDER}/{name}.json").write_text(text)


def remedy() -> list[Operation]:
    """The pool and a cluster's server onto it, and back, by the module."""
    return _there_and_back("mshare_remedy", "remedy", "no-remedy")


def _there_and_back(name: str, wanted: str, none: str) -> list[Operation]:
    """A module that needs nothing before, by the files with its arguments for present and absent."""
    module = (sys.executable, "-m", f"{_MODULES}.{name}")
    present, absent = (*module, f"{FOLDER}/{wanted}.json"), (*module, f"{FOLDER}/{none}.json")
    return [
        Operation(f"{name} present", present, (), end=(absent,), module=True, undone=True),
        Operation(f"{name} absent", absent, (present,), end=(absent,), module=True),
    ]


def prepare_monitoring(machine: Machine) -> None:
    """Cron, as far as it is looked for, and folders of others. Users are made in this machine's /etc; what
    would be written beyond that is memory."""
    for path in ("/var/lib", "/var/log"):
        machine.host.do("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path)
    machine.host.do(
        "mkdir", "-p", "/etc/cron.d", "/usr/local/sbin", f"{FOLDER}/textfiles", f"{FOLDER}/metrics"
    )
    machine.host.do("ln", "-sf", "/bin/true", "/usr/local/sbin/cron")
    # The surveys' user reads below it, and the node exporter's does.
    machine.host.do("chmod", "755", FOLDER)


def prepare(machine: Machine) -> None:
    """What the operations read: a survey of this host, the modules' arguments."""
    folder = machine.inside(FOLDER)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, more in _SURVEYS.items():
        (folder / f"{name}.json").write_text(json.dumps({"ANSIBLE_MODULE_ARGS": more}))
    machine.inside(f"{FOLDER}/data").write_bytes(bytes(1 << 20))
    for name, more in _REMEDIES.items():
        (folder / f"{name}.json").write_text(json.dumps({"ANSIBLE_MODULE_ARGS": more}))
    survey = machine.run("mshare", "--json", "survey")
    assert survey.code == 0, survey.errors
    machine.inside(SURVEY).write_text(survey.output)
    arguments = {"python": sys.executable}
    packed = sources.pack(sources.read(paths.PACKAGE))
    for name, more in _RUNTIMES.items():
        whole = {"ANSIBLE_MODULE_ARGS": {**arguments, "sources": packed, **more}}
        (folder / f"{name}.json").write_text(json.dumps(whole))


def forget(machine: Machine) -> None:
    """What an operation is meant to leave behind."""
    report = machine.inside(f"{FOLDER}/report")
    if report.exists():
        shutil.rmtree(report)


def shown(command: Command) -> str:
    return " ".join(command[:4]) if command[: len(COMMAND)] != COMMAND else " ".join(command[2:6])


def postgresql() -> list[Operation]:
    """A cluster's server onto huge pages and back, on a machine with a cluster."""
    change = ("--restart", "--probes", "2")
    move = ("mshare", "postgresql", "present", "--backend", "simulated", "--pages", "thp", *change)
    back = ("mshare", "postgresql", "absent", *change)
    return [
        Operation("postgresql present", move, (), end=(back,)),
        Operation("postgresql absent", back, (move,), end=(back,)),
    ]
