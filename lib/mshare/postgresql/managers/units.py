# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd's units that start PostgreSQL, as systemd itself describes them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass

from ...host.limits import Host

_STARTERS = ("postgres", "postmaster", "edb-postgres", "edb-postmaster", "pg_ctl")
_NAMES = re.compile(r"postgres|pgsql|postmaster|edb-as")
_PROPERTIES = (
    *("ExecStart", "Environment", "EnvironmentFiles", "UnsetEnvironment", "TimeoutStartUSec"),
    "UnitFileState",
)
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
    def data_directory(self) -> str | None:
        """Where its cluster is, by -D or PGDATA; None if it has neither."""
        arguments = re.search(r"argv\[\]=(.*?) ;", self.starts)
        words = iter(arguments[1].split() if arguments else [])
        place = self.environment.get("PGDATA")
        for word in words:
            if word == "-D":
                place = next(words, place)
            elif word.startswith("-D"):
                place = word[2:]
        for name, value in self.environment.items():
            place = place and place.replace("${" + name + "}", value).replace("$" + name, value)
        return os.path.realpath(place) if place else None


def describe(name: str) -> Unit:
    """A unit; an empty unit if systemd does not run or has no unit of that name."""
    if not Host().runs_systemd() or not name.endswith(".service"):
        return Unit(name)
    text = _ask("show", f"--property={','.join(_PROPERTIES)}", name)
    fields: dict[str, str] = {}
    files = []
    for key, __, value in (line.partition("=") for line in text.split("\n")):
        if key == "EnvironmentFiles":
            files.append(value.partition(" (")[0].lstrip("-"))
        else:
            fields[key] = value
    return Unit(
        name,
        fields.get("ExecStart", ""),
        fields.get("Environment", ""),
        tuple(path for path in files if path),
        tuple(shlex.split(fields.get("UnsetEnvironment", ""))),
        fields.get("UnitFileState") == "transient",
        _seconds(fields.get("TimeoutStartUSec", "infinity")),
    )


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
