# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognising servers, and reading how many processes they are configured for.

PostgreSQL and what derives from it (EDB, Greenplum) are recognised by the files of a data directory,
Oracle by the titles of its processes. What cannot be read is listed as missing, with the reason.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from .. import files
from ..host.processes import Missing, Process, Vanished, missing, read
from ..postgresql import configuration
from .record import Maximum

_POSTGRESQL_PROGRAMS = ("postgres", "postmaster", "edb-postgres")
_DEFAULT_CONNECTIONS = 100
# ora_pmon_ORCL, asm_pmon_+ASM, db_pmon_FREE, xe_pmon_XE: a background process of an instance.
_ORACLE_PROCESS = re.compile(r"^(?:ora|asm|mdb|apx|ios|db|xe)_[a-z][a-z0-9]{2,4}_(\+?[A-Za-z0-9_$#-]+)")
# What sets it apart from other programs of such names, like db_sync_orders.
_ORACLE_SURELY = re.compile(
    r"^(?:(?:ora|asm)_[a-z][a-z0-9]{2,4}|(?:mdb|apx|ios|db|xe)_(?:pmon|psp0|vktm|dbw0|lgwr|ckpt|smon))_"
)
# oracleORCL, oracle+ASM1_asmb_orcl1: a process that serves a client, here another instance.
_ORACLE_SERVER = re.compile(r"^oracle(\+[A-Za-z0-9]+|-?[A-Za-z0-9_$#]+)")
_ORACLE_SETTINGS = (
    "memory_target",
    "memory_max_target",
    "sga_target",
    "sga_max_size",
    "pga_aggregate_target",
    "use_large_pages",
)
_POSTGRESQL_SETTINGS = (
    "huge_pages",
    "huge_page_size",
    "shared_buffers",
    "shared_memory_type",
    "max_connections",
    "max_parallel_workers",
)
_PROGRAM_KINDS = (
    ("python", re.compile(r"^python[0-9.]*$")),
    ("php-fpm", re.compile(r"^php-?fpm[0-9.]*$")),
    ("php", re.compile(r"^(?:php(?:-cgi)?[0-9.]*|lsphp[0-9.]*|frankenphp)$")),
    ("nginx", re.compile(r"^nginx$")),
    ("apache", re.compile(r"^(?:apache2|httpd)$")),
)
"""Programs that are not databases, and have remedies of their own."""
_PHP_MODULES = (b"/libphp", b"/opcache.so")
# The title that a server writes: "postgres: 15/main: app shop 10.0.0.7(40022) idle".
_POSTGRESQL_TITLE = re.compile(r"^[\w-]+: ")
# Where a client comes from, after its user and database. Only processes of clients have it in their title,
_POSTGRESQL_CLIENT = re.compile(r"\s(?:\[local\]|\S+\([0-9]+\))(?:\s|$)")
# and those that send to a standby, which max_connections does not count.
_POSTGRESQL_SENDER = re.compile(r"[:,] +wal ?sender\b")
_FILES_MAXIMUM = 200
_NAMES_KEPT = 4096
_VERSION = re.compile(r"[0-9][0-9A-Za-z.]{0,15}")


@dataclass
class Database:
    """What a server tells about itself."""

    kind: str = "other"
    name: str = ""
    data_directory: str | None = None
    port: int | None = None
    version: str | None = None
    sid: str | None = None
    helpers: int = 0
    has_patronis_file: bool = False
    processes_maximum: Maximum | None = None
    huge_pages_requested: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


@lru_cache(_NAMES_KEPT)
def suspected(name: str) -> bool:
    """Whether a command name is a database's: its processes are examined however small they are."""
    return name in _POSTGRESQL_PROGRAMS or name.startswith("oracle") or bool(_ORACLE_PROCESS.match(name))


@lru_cache(_NAMES_KEPT)
def program_kind(name: str) -> str:
    """The kind of a program by its name: python, php-fpm, php, nginx, apache or other."""
    return next((kind for kind, pattern in _PROGRAM_KINDS if pattern.match(name)), "other")


@lru_cache(_NAMES_KEPT)
def is_tree(name: str) -> bool:
    """Whether all processes below one of this name, and of the same name, are one server."""
    return name in _POSTGRESQL_PROGRAMS or program_kind(name) in ("php-fpm", "nginx", "apache")


def family(process: Process) -> object:
    """What the processes of one server have in common that anybody may read: an Oracle's SID, or a name."""
    sid = sid_of(process) if _oracle_named(process.name) else None
    return ("oracle", sid) if sid else process.name


def leader(members: list[Process]) -> Process:
    """The process the others come from: the parent of most, else the oldest."""
    children = Counter([process.parent for process in members])
    parents = [process for process in members if process.pid in children]
    return max(parents or members, key=lambda process: (children.get(process.pid, 0), -process.pid))


def data_directory(process: Process) -> str | None:
    """The data directory of a PostgreSQL, or of what derives from it, that a process works in; else None.

    Raises PermissionError where it may not be read.
    """
    here = process.path("cwd")
    try:
        # A program with another name may just stand in the directory of a server that is stopped.
        is_data_directory = _there(f"{here}/PG_VERSION") and (
            process.name in _POSTGRESQL_PROGRAMS
            or _there(f"{here}/postmaster.pid")
            or _there(f"{here}/postgresql.conf")
        )
        return os.readlink(here) if is_data_directory else None
    except PermissionError:
        raise
    except OSError:
        return None


def _there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def recognise(
    members: list[Process], first: Process, executable: str | None, helpers: dict[Process, bool]
) -> Database:
    """What a group of processes is, by the files and titles of the process `first` they come from.

    `helpers` has what is known of processes that have not run since; what is read is added.
    """
    program = os.path.basename((executable or "").replace(" (deleted)", "")) or first.name
    database = _postgresql(members, first, program, helpers) or _oracle(members, first, program)
    if database is not None:
        return database
    kind_of_program = program_kind(program)
    if kind_of_program == "apache" and _has_php(first):
        kind_of_program = "php"
    return Database(kind_of_program, name=program)


def _has_php(process: Process) -> bool:
    """Whether PHP is a module of a program."""
    try:
        maps = read(process.path("maps"))
    except (Vanished, PermissionError):
        return False
    return any(name in maps for name in _PHP_MODULES)


def _postgresql(
    members: list[Process], first: Process, program: str, helpers: dict[Process, bool]
) -> Database | None:
    named = program in _POSTGRESQL_PROGRAMS or first.name in _POSTGRESQL_PROGRAMS
    try:
        directory = data_directory(first)
    except PermissionError:
        if not named:
            return None
        gap = missing(first.pid, "data directory", "permission denied; run as root or the database's user")
        return Database("postgresql", name="postgresql", missing=[gap])
    if directory is None:
        # Gone meanwhile, or a client that has the name.
        return Database("postgresql", name="postgresql") if named else None
    database = Database("postgresql", data_directory=directory)
    here = first.path("cwd")
    inside = _Files(first, database)
    version = (inside.content(f"{here}/PG_VERSION") or "").strip()
    database.version = version if _VERSION.fullmatch(version) else None
    if version and database.version is None:
        database.missing.append(missing(first.pid, "version", "PG_VERSION holds no version"))
    database.has_patronis_file = os.path.lexists(f"{here}/patroni.dynamic.json")
    lock = (inside.content(f"{here}/postmaster.pid") or "").split("\n")
    settings = _settings(first, inside, here)
    port = lock[3] if len(lock) > 3 else settings.get("port", ("5432", ""))[0]
    database.port = int(port) if port.isdigit() else None
    readable = not any(entry.what.endswith(".conf") for entry in database.missing)
    connections, source = settings.get("max_connections", (str(_DEFAULT_CONNECTIONS), "PostgreSQL's default"))
    if connections.isdigit() and (readable or "max_connections" in settings):
        database.processes_maximum = Maximum(int(connections), f"max_connections, {source}")
    if readable or "huge_pages" in settings:
        database.huge_pages_requested = settings.get("huge_pages", ("try", ""))[0]
    database.settings = {name: settings[name][0] for name in _POSTGRESQL_SETTINGS if name in settings}
    for process in members:
        if process not in helpers:
            helpers[process] = _is_helper(process)
    database.helpers = sum(process is first or helpers[process] for process in members)
    database.name = (
        f"postgresql {database.port}" if database.port else f"postgresql {database.data_directory}"
    )
    return database


def _is_helper(process: Process) -> bool:
    """Whether max_connections does not count a process, by its title: background and parallel workers, those
    of extensions too, whatever they are called. One without a title of its own has just begun."""
    title = process.title()
    if not _POSTGRESQL_TITLE.match(title):
        return False
    return not _POSTGRESQL_CLIENT.search(title) or bool(_POSTGRESQL_SENDER.search(title))


class _Files:
    """Reads files as a process sees them; what may not be read is listed as missing."""

    def __init__(self, process: Process, database: Database) -> None:
        self._process = process
        self._database = database
        # A folder of a million files must not hold up the survey.
        self._files_left = _FILES_MAXIMUM

    def content(self, path: str) -> str | None:
        """None for a file that is not there, or that this user or the process itself may not read."""
        self._files_left -= 1
        if self._files_left < 0:
            return None
        try:
            return files.read_foreign(path, uids=self._process.uids, gids=self._process.gids)
        except files.NotTrusted as error:
            self._database.missing.append(missing(self._process.pid, os.path.basename(path), error.reason))
        except PermissionError:
            reason = "permission denied; run as root or the database's user"
            self._database.missing.append(missing(self._process.pid, os.path.basename(path), reason))
        except OSError as error:
            if error.errno != errno.ENOENT:
                reason = error.strerror or str(error)
                self._database.missing.append(missing(self._process.pid, path, reason))
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
    given = configuration.options(_arguments(first, files, here))
    main = given.get("config_file", (f"{here}/postgresql.conf", ""))[0]
    return configuration.settings(files, main, here, given)


def _arguments(first: Process, files: _Files, here: str) -> list[str]:
    # A running postmaster may have written its title over its arguments.
    written = files.content(f"{here}/postmaster.opts")
    return first.arguments() if written is None else configuration.started_with(written)


def _oracle(members: list[Process], first: Process, program: str) -> Database | None:
    if program != "oracle" and not any(map(_ORACLE_SURELY.match, {process.name for process in members})):
        return None
    # Background processes first: their titles have nothing but the SID.
    suspects = sorted(
        (process for process in members if _oracle_named(process.name)),
        key=lambda process: not _ORACLE_PROCESS.match(process.name),
    )
    database = Database("oracle", name="oracle")
    database.sid = next((sid for sid in map(sid_of, suspects) if sid), None)
    if database.sid is None:
        database.missing.append(missing(first.pid, "SID", "no process of it has a title with one"))
        return database
    database.name = f"oracle {database.sid}"
    try:
        executable = os.readlink(first.path("exe"))
    except PermissionError:
        reason = "permission denied; run as root or the database's user"
        database.missing.append(missing(first.pid, "parameter file", reason))
    except OSError:
        # It ended meanwhile.
        pass
    else:
        _oracle_parameters(first, database, executable)
    return database


def _oracle_named(name: str) -> bool:
    return name.startswith("oracle") or bool(_ORACLE_PROCESS.match(name))


def sid_of(process: Process) -> str | None:
    """From ora_pmon_SID or oracleSID; the whole name is in the command line only."""
    arguments = process.arguments()
    title = arguments[0] if arguments and arguments[0] else process.name
    for pattern in (_ORACLE_PROCESS, _ORACLE_SERVER):
        match = pattern.match(title)
        if match:
            return match.group(1)
    return None


def _oracle_parameters(first: Process, database: Database, executable: str) -> None:
    """`processes` from the parameter file; an spfile is binary, but its lines are text."""
    files = _Files(first, database)
    folder = _oracle_folder(files, os.path.dirname(os.path.dirname(executable)))
    # In the order in which Oracle looks for them.
    for name in (f"spfile{database.sid}.ora", "spfile.ora", f"init{database.sid}.ora"):
        content = files.content(files.place(f"{folder}/{name}"))
        if content is None:
            continue
        spfile = f"{folder}/{name}" if name.startswith("spfile") else _spfile_named(content)
        if spfile is not None and not name.startswith("spfile"):
            content, name = _elsewhere(files, spfile), os.path.basename(spfile)
            if content is None:
                database.settings = {"spfile": spfile}
                reason = f"init{database.sid}.ora names {spfile}, which cannot be read here"
                database.missing.append(missing(first.pid, "parameter file", reason))
                return
        setting = _parameter(content, database.sid)
        processes = setting("processes")
        if processes and processes.isdigit():
            database.processes_maximum = Maximum(int(processes), f"processes, {name}")
        database.huge_pages_requested = setting("use_large_pages")
        database.settings = dict(_known((each, setting(each)) for each in _ORACLE_SETTINGS))
        if spfile is not None:
            database.settings["spfile"] = spfile
        return
    if not database.missing:
        database.missing.append(missing(first.pid, "parameter file", f"none of {database.sid} in {folder}"))


def _oracle_folder(files: _Files, home: str) -> str:
    """Where the parameter files are: in Oracle's home, or in the base of a home that is read-only, as since
    21c by default. Which it is, is in a table of the home: HOME:BASE:NAME:Y."""
    for line in (files.content(files.place(f"{home}/install/orabasetab")) or "").split("\n"):
        fields = line.split(":")
        if len(fields) > 3 and fields[1].startswith("/") and fields[3].upper() == "Y":
            return f"{fields[1].rstrip('/')}/dbs"
    return os.path.join(home, "dbs")


def _spfile_named(content: str) -> str | None:
    """The spfile that a parameter file names in its place, perhaps in ASM (+DATA/...)."""
    match = re.search(r"(?im)^\s*(?:\*\.)?spfile\s*=\s*['\"]?([^\s'\"]+)", content)
    return match.group(1) if match else None


def _elsewhere(files: _Files, spfile: str) -> str | None:
    return files.content(files.place(spfile)) if spfile.startswith("/") else None


def _known(pairs: Iterable[tuple[str, str | None]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in pairs if value is not None)


def _parameter(content: str, sid: str | None = None) -> Callable[[str], str | None]:
    """Reads parameters of an instance; SID.name=value counts for it before *.name=value and name=value."""

    def setting(name: str) -> str | None:
        values: dict[str, str] = {}
        # What Oracle tunes by itself is called SID.__name there. A file may be binary around its lines.
        pattern = rf"(?im)^[^#\n=]*?(?:([\w$#+-]+|\*)\.)?\b{name}\s*=\s*['\"]?(\w+)"
        for whose, value in re.findall(pattern, content):
            values.setdefault(whose.upper() if whose != "*" else "", value)
        return values.get((sid or "").upper(), values.get(""))

    return setting
