# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognising databases, and reading how many processes they are configured for.

Whatever cannot be read (a data directory is its owner's only) is said, never guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..host.processes import Missing, Process, Vanished, missing, read
from ..postgresql import configuration
from .record import Maximum

_POSTGRESQL = ("postgres", "postmaster")
_ORACLE_PREFIXES = ("ora_", "oracle", "asm_")
_DEFAULT_CONNECTIONS = 100


@dataclass
class Database:
    """What a database tells about itself."""

    kind: str = "other"
    name: str | None = None
    data_directory: str | None = None
    port: int | None = None
    version: str | None = None
    sid: str | None = None
    processes_maximum: Maximum | None = None
    huge_pages_requested: str | None = None
    missing: list[Missing] = field(default_factory=list)


def suspected(name: str) -> bool:
    """Whether a command name is a database's: its processes are looked at however small they are."""
    return name in _POSTGRESQL or name.startswith(_ORACLE_PREFIXES)


def leader(members: list[Process]) -> Process:
    """The process the others come from: the parent of most, else the oldest."""
    children: dict[int, int] = {}
    for process in members:
        children[process.parent] = children.get(process.parent, 0) + 1
    return max(members, key=lambda process: (children.get(process.pid, 0), -process.pid))


def recognise(members: list[Process], executable: str | None) -> Database:
    """What kind of database a group of processes is, by its executable and names."""
    first = leader(members)
    program = os.path.basename((executable or "").replace(" (deleted)", ""))
    for kind in (_postgresql, _oracle):
        database = kind(members, first, program)
        if database is not None:
            return database
    return Database(name=program or first.name)


def _postgresql(members: list[Process], first: Process, program: str) -> Database | None:
    if program not in _POSTGRESQL and first.name not in _POSTGRESQL:
        return None
    found = Database("postgresql", data_directory=first.link("cwd"))
    if found.data_directory is None:
        found.missing.append(
            missing(first.pid, "data directory", "permission denied; run as root or postgres")
        )
        found.name = "postgresql"
        return found
    here = first.path("cwd")
    inside = _Files(first, found)
    found.version = (inside.content(f"{here}/PG_VERSION") or "").strip() or None
    lock = (inside.content(f"{here}/postmaster.pid") or "").split("\n")
    settings = _settings(first, inside, here)
    port = lock[3] if len(lock) > 3 else settings.get("port", ("5432", ""))[0]
    found.port = int(port) if port.isdigit() else None
    readable = not any(one.what.endswith(".conf") for one in found.missing)
    connections, source = settings.get("max_connections", (str(_DEFAULT_CONNECTIONS), "PostgreSQL's default"))
    if connections.isdigit() and (readable or "max_connections" in settings):
        found.processes_maximum = Maximum(int(connections), f"max_connections, {source}")
    if readable or "huge_pages" in settings:
        found.huge_pages_requested = settings.get("huge_pages", ("try", ""))[0]
    found.name = f"postgresql {found.port}" if found.port else f"postgresql {found.data_directory}"
    return found


class _Files:
    """Reads files as a process sees them; what may not be read is noted."""

    def __init__(self, process: Process, database: Database) -> None:
        self._process = process
        self._database = database

    def content(self, path: str) -> str | None:
        """None for a file that is not there or may not be read."""
        try:
            return read(path).decode("utf-8", "replace")
        except Vanished:
            return None
        except PermissionError:
            reason = "permission denied; run as root or the database's user"
            self._database.missing.append(missing(self._process.pid, os.path.basename(path), reason))
        except OSError as error:
            self._database.missing.append(missing(self._process.pid, path, error.strerror or str(error)))
        return None

    def place(self, path: str) -> str:
        """A path of the process's own root, which may be a container's."""
        return path if path.startswith("/proc/") else self._process.path("root") + path

    def listed(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except OSError:
            return []


def _settings(first: Process, files: _Files, here: str) -> configuration.Settings:
    said = configuration.options(_arguments(first, files, here))
    main = said.get("config_file", (f"{here}/postgresql.conf", ""))[0]
    return configuration.settings(files, main, here, said)


def _arguments(first: Process, files: _Files, here: str) -> list[str]:
    # A running postmaster may have written its title over its arguments.
    written = files.content(f"{here}/postmaster.opts")
    return first.arguments() if written is None else configuration.started_with(written)


def _oracle(members: list[Process], first: Process, program: str) -> Database | None:
    named = [process for process in members if process.name.startswith(_ORACLE_PREFIXES)]
    if program != "oracle" and not any(process.name.startswith("ora_") for process in named):
        return None
    found = Database("oracle")
    found.sid = next((sid for sid in map(_sid, named) if sid), None)
    found.name = f"oracle {found.sid}" if found.sid else "oracle"
    executable = first.executable
    if executable is None or found.sid is None:
        found.missing.append(missing(first.pid, "parameter file"))
        return found
    _oracle_parameters(first, found, executable)
    return found


def _sid(process: Process) -> str | None:
    """From ora_pmon_SID or oracleSID; the whole name is in the command line only."""
    arguments = process.arguments()
    title = arguments[0] if arguments and arguments[0] else process.name
    for pattern in (r"^ora_[a-z0-9]+_(\S+)", r"^oracle(\S+)"):
        match = re.match(pattern, title)
        if match:
            return match.group(1)
    return None


def _oracle_parameters(first: Process, found: Database, executable: str) -> None:
    """`processes` from the parameter file; an spfile is binary, but its lines are text."""
    folder = os.path.join(os.path.dirname(os.path.dirname(executable)), "dbs")
    files = _Files(first, found)
    for name in (f"spfile{found.sid}.ora", f"init{found.sid}.ora"):
        content = files.content(files.place(f"{folder}/{name}"))
        if content is None:
            continue
        setting = _parameter(content)
        processes = setting("processes")
        if processes and processes.isdigit():
            found.processes_maximum = Maximum(int(processes), f"processes, {name}")
        found.huge_pages_requested = setting("use_large_pages")
        return
    found.missing.append(missing(first.pid, "parameter file", f"none of {found.sid} in {folder}"))


def _parameter(content: str) -> Callable[[str], str | None]:
    def setting(name: str) -> str | None:
        match = re.search(rf"(?im)^[^#\n]*?\b{name}\s*=\s*['\"]?(\w+)", content)
        return match.group(1) if match else None

    return setting
