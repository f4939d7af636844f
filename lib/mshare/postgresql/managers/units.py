# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd's units that start PostgreSQL, as systemd itself describes them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from glob import glob

from ... import files
from ...host.limits import Host
from .. import configuration

_STARTERS = ("postgres", "postmaster", "edb-postgres", "edb-postmaster", "pg_ctl")
_NAMES = re.compile(r"postgres|pgsql|postmaster|edb-as")
_PROPERTIES = (
    *("ExecStart", "Environment", "EnvironmentFiles", "UnsetEnvironment", "TimeoutStartUSec"),
    *("UnitFileState", "LoadState", "DropInPaths", "RefuseManualStart", "RefuseManualStop"),
    *("ExecStop", "KillMode", "KillSignal", "TimeoutStopUSec"),
)
_PGDATA = re.compile(r"""^\s*PGDATA=["']?([^"'\n]*?)["']?\s*$""", re.M)
_NEVER_STARTED = ("disabled", "masked", "masked-runtime")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Unit:
    """What systemd says about one unit."""

    name: str
    starts: str = ""
    """Its ExecStart, as systemctl shows it."""
    environment_text: str = ""
    environment_files: tuple[str, ...] = ()
    """Its EnvironmentFile=; a path may be a pattern."""
    unset: tuple[str, ...] = ()
    """What its UnsetEnvironment= takes out again."""
    transient: bool = False
    """Whether systemd-run made it: it is gone once it has stopped."""
    start_seconds: float | None = None
    """How long a start may take; None for ever."""
    loaded: str = ""
    """Its LoadState: "loaded", or why systemd could not start it ("masked", "not-found")."""
    drop_ins: tuple[str, ...] = ()
    """The files that change it, in the order of their names: of what two set, the last one counts."""
    refused: tuple[str, ...] = ()
    """What nobody may do to it by hand: RefuseManualStart, RefuseManualStop."""
    stops: str = ""
    """Its ExecStop, as systemctl shows it."""
    kill: tuple[str, str] = ("", "")
    """Its KillMode and the number of its KillSignal."""
    stop_seconds: float | None = None
    """How long a stop may take before its processes are killed; None for ever."""

    @property
    def environment(self) -> dict[str, str]:
        """Its Environment=, with what drop-ins make of it."""
        pairs = (pair.partition("=") for pair in shlex.split(self.environment_text))
        return {name: value for name, __, value in pairs}

    @property
    def program(self) -> str:
        path = re.search(r"\bpath=(\S+)", self.starts)
        return path[1] if path else ""

    @property
    def starts_postgresql(self) -> bool:
        return os.path.basename(self.program) in _STARTERS

    @property
    def command(self) -> str:
        """The command line of its ExecStart. Words stand side by side, also those that have blanks."""
        arguments = re.search(r"argv\[\]=(.*?) ;", self.starts)
        return arguments[1] if arguments else ""

    @property
    def data_directory(self) -> str | None:
        """Where its cluster is, or at least its configuration, by -D or PGDATA; None if it has neither."""
        environment = {**self.environment, **self._of_files()}
        place = environment.get("PGDATA")
        words = iter(self.command.split())
        for word in words:
            if word == "-D":
                place = next(words, place)
            elif word.startswith("-D"):
                place = word[2:]
        return self._expanded(place, environment)

    @property
    def configuration_file(self) -> str | None:
        """What -c config_file= has, of a unit that runs postgres; None without it."""
        if os.path.basename(self.program) == "pg_ctl":
            return None
        given = configuration.options(self.command.split()).get("config_file")
        return None if given is None else self._expanded(given[0], {**self.environment, **self._of_files()})

    def is_for(self, directory: str) -> bool:
        """Whether it starts the cluster with that data directory or configuration, as far as one can see."""
        place = self.data_directory
        if place is None or place == os.path.realpath(directory):
            return True
        # Of a path with blanks the words show the first part only.
        return f"-D {directory}" in self.command or f"-D{directory}" in self.command

    def _of_files(self) -> dict[str, str]:
        """PGDATA as its environment files have it."""
        found = {}
        for pattern in self.environment_files:
            for path in sorted(glob(pattern)):
                for match in _PGDATA.finditer(_text(path)):
                    found["PGDATA"] = match[1]
        return found

    @staticmethod
    def _expanded(place: str | None, environment: dict[str, str]) -> str | None:
        for name, value in environment.items():
            place = place and place.replace("${" + name + "}", value)
            place = value if place == f"${name}" else place
        return os.path.realpath(place) if place and place.startswith("/") else None


def describe(name: str) -> Unit:
    """A unit; an empty unit if systemd does not run or has no unit of that name."""
    if not Host().runs_systemd() or not name.endswith(".service"):
        return Unit(name)
    text = _ask("show", f"--property={','.join(_PROPERTIES)}", name)
    fields: dict[str, str] = {}
    environment_files = []
    for key, __, value in (line.partition("=") for line in text.split("\n")):
        if key == "EnvironmentFiles":
            environment_files.append(value.partition(" (")[0].lstrip("-"))
        else:
            fields[key] = value
    return Unit(
        name,
        fields.get("ExecStart", ""),
        fields.get("Environment", ""),
        tuple(path for path in environment_files if path),
        tuple(shlex.split(fields.get("UnsetEnvironment", ""))),
        fields.get("UnitFileState") == "transient",
        _seconds(fields.get("TimeoutStartUSec", "infinity")),
        fields.get("LoadState", ""),
        tuple(sorted(shlex.split(fields.get("DropInPaths", "")), key=os.path.basename)),
        tuple(name for name in ("RefuseManualStart", "RefuseManualStop") if fields.get(name) == "yes"),
        fields.get("ExecStop", ""),
        (fields.get("KillMode", ""), fields.get("KillSignal", "")),
        _seconds(fields.get("TimeoutStopUSec", "infinity")),
    )


def state(name: str) -> tuple[str, str]:
    """A unit's ActiveState and SubState, as in ("active", "running")."""
    lines = (
        line.partition("=") for line in _ask("show", "--property=ActiveState,SubState", name).split("\n")
    )
    fields = {key: value for key, __, value in lines}
    return fields.get("ActiveState", ""), fields.get("SubState", "")


def inherited() -> dict[str, str]:
    """The environment that systemd itself gives to all units (DefaultEnvironment=, set-environment)."""
    if not Host().runs_systemd():
        return {}
    lines = (line.partition("=") for line in _ask("show-environment").split("\n"))
    # It quotes as a shell does: NAME=$'a b'.
    return {name: "".join(shlex.split(value.removeprefix("$"))) for name, __, value in lines if name}


def of_postgresql() -> list[Unit]:
    """The units that start PostgreSQL themselves, running or not."""
    if not Host().runs_systemd():
        return []
    listed = _ask("list-unit-files", "--type=service", "--no-legend", "--no-pager").split("\n")
    names = {line.split()[0] for line in listed if line.strip()}
    candidates = [describe(name) for name in sorted(names) if _NAMES.search(name) and "@." not in name]
    return [unit for unit in candidates if unit.starts_postgresql]


def started_at_boot(program: str) -> list[str]:
    """The units that run a program, by itself or by its interpreter, and are not disabled. systemd has those
    loaded that it starts at boot, whether they run or not."""
    if not Host().runs_systemd():
        return []
    found = []
    for text in _ask("show", "--property=Id,ExecStart,UnitFileState", "*.service").split("\n\n"):
        fields = {key: value for key, __, value in (line.partition("=") for line in text.split("\n"))}
        unit = Unit(fields.get("Id", ""), fields.get("ExecStart", ""))
        runs = program in map(os.path.basename, unit.command.split()[:3])
        if runs and fields.get("UnitFileState") not in _NEVER_STARTED:
            found.append(unit.name)
    return found


def _text(path: str) -> str:
    """Of a file that systemd reads as root; empty for what is no file."""
    with contextlib.suppress(OSError, files.NotTrusted):
        return files.read_text(path) or ""
    return ""


def _seconds(text: str) -> float | None:
    """systemd's way to show a time span: "1min 30s"."""
    if text in ("infinity", "0", ""):
        return None
    parts = re.findall(r"([0-9.]+)\s*([a-z]+)", text)
    return sum(float(number) * _SECONDS.get(unit, 1) for number, unit in parts)


def _ask(*words: str) -> str:
    asked = subprocess.run(
        ["systemctl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return asked.stdout
