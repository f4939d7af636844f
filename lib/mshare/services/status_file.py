# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs: one status file per mshare process, always replaced as a whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypedDict, TypeVar

from .. import __version__, files, paths, record
from ..errors import Conflict, Failure, InvalidRequest, sentence
from ..host import procfs

SCHEMA_VERSION = 1
"""Of the fields of a status file. What LASTING names means the same in every schema there will be."""
LASTING = ("schema_version", "version", "pid", "started_ticks")
_ROOM_BYTES = 64 * 1024
"""A status file, its successor, a log."""
_LARGEST_PID = 1 << 22
SUFFIXES = ("json", "lock", "log", "cgroup", "mappings.lock")
"""Of the files of a role."""


@dataclass(frozen=True)
class Status:
    """What every mshare process writes down about itself."""

    FILE_MODE = 0o644

    schema_version: int
    version: str
    """Of the library that the process runs."""
    pid: int
    started_ticks: int
    """When the process started: pids are used again."""
    state: str
    """ "starting", "prefaulting", "ready" or "failed" """
    region: str
    root: str
    error: Failure | None
    """Why it failed."""

    def __post_init__(self) -> None:
        if not 0 <= self.pid <= _LARGEST_PID:
            raise InvalidRequest(f"{self.pid} is not the number of a process")

    @property
    def alive(self) -> bool:
        return procfs.alive(self.pid, self.started_ticks)


S = TypeVar("S", bound=Status)


@dataclass(frozen=True)
class Role(Generic[S]):
    """The part that an mshare process plays for a region."""

    name: str
    """By which its status file and its unit are named."""
    record: type[S]
    """What its status file holds."""
    starts_programs: bool = False
    """Whether it starts programs of the user's, which can start anything."""

    def __str__(self) -> str:
        return self.name


class AnyRole(Protocol):
    """A role whose record does not matter."""

    @property
    def name(self) -> str: ...

    @property
    def starts_programs(self) -> bool: ...


@dataclass(frozen=True)
class Unread:
    """A status file that this version of the library cannot read: what is known in spite of that."""

    state: str
    """ "unknown" for another schema, "unreadable" for a file that is damaged """
    reason: str
    version: str | None
    pid: int | None
    started_ticks: int | None

    @property
    def alive(self) -> bool:
        return self.pid is not None and procfs.alive(self.pid, self.started_ticks or 0)


class Beginning(TypedDict):
    """The fields of Status."""

    schema_version: int
    version: str
    pid: int
    started_ticks: int
    state: str
    region: str
    root: str
    error: Failure | None


def beginning(region: str, root: str) -> Beginning:
    """What every status of this process begins with: it is starting, and has not done anything yet.

    Whoever starts an owner or a launcher writes its status in the same instant, so that nothing runs that
    is not listed: a teardown finds, and ends, what a deployment that was cut off had only begun to start.
    """
    return Beginning(
        schema_version=SCHEMA_VERSION,
        version=__version__,
        pid=os.getpid(),
        started_ticks=procfs.start_ticks(os.getpid()) or 0,
        state="starting",
        region=region,
        root=root,
        error=None,
    )


def of_process(status: S, pid: int) -> S:
    """The status of another process, for instance of a process that was just started."""
    return replace(status, pid=pid, started_ticks=procfs.start_ticks(pid) or 0)


def directory(root: str) -> str:
    """The directory of status files for the msharefs at a root."""
    return os.path.join(paths.state_dir(), paths.escape(root))


def make_directory(root: str) -> None:
    """Make the directory of status files for a root, below a state directory that is ours."""
    files.make_directory(paths.state_dir())
    files.make_directory(directory(root))


def require_room(root: str) -> None:
    """OSError (ENOSPC) where no process could write down how it is: it would start, then fail mutely."""
    try:
        make_directory(root)
        filesystem = os.statvfs(directory(root))
        # A tmpfs without a limit reports no blocks at all.
        if filesystem.f_blocks and filesystem.f_bavail * filesystem.f_frsize < _ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory(root))
    except BaseException:
        files.remove_empty(directory(root), paths.state_dir())
        raise


def file(root: str, name: str, role: AnyRole, suffix: str = "json") -> str:
    """The status file, lock or log of a region's owner or clients."""
    return os.path.join(directory(root), _name(name, role, suffix))


def _name(name: str, role: AnyRole, suffix: str = "json") -> str:
    return f"{paths.file_name(name)}.{role.name}.{suffix}"


def read(root: str, name: str, role: Role[S]) -> S | None:
    """A process's status, or None where there is none, or one of another schema whose writer ended.

    Raises Conflict for one of another schema whose writer lives: what is not understood is not decided
    on; and MshareError for a file that is damaged.
    """
    status = peek(root, name, role)
    if not isinstance(status, Unread):
        return status
    if status.state == "unreadable":
        raise record.Malformed(status.reason)
    if status.alive:
        raise Conflict(status.reason)
    return None


def peek(root: str, name: str, role: Role[S]) -> S | Unread | None:
    """A process's status, for callers that change nothing or may end what cannot be read."""
    return _peek(file(root, name, role), name, role)


def _peek(path: str, name: str, role: Role[S]) -> S | Unread | None:
    next_step = f"`mshare rm {name} --force` ends what is left of the region"
    try:
        text = files.read_bytes(path)
        if text is None:
            return None
        fields = record.load(text, path, next_step)
        place = record.Place(path, next_step)
        schema = record.build(_Schema, fields, place).schema_version
        if schema != SCHEMA_VERSION:
            return _other_schema(path, schema, fields)
        return record.build(role.record, fields, place)
    except PermissionError:
        reason = f"{path} may be read by its owner and root only; run as root (become: true)"
        return Unread("unknown", reason, None, None, None)
    except (record.Malformed, files.NotTrusted, OSError) as error:
        return Unread("unreadable", sentence(error), None, None, None)


def observe(root: str, name: str, role: Role[S]) -> S | Unread | None:
    """A process's status, also of one that root deployed, for callers that change nothing."""
    status = peek(root, name, role)
    system = paths.system_state_dir()
    if status is not None or system is None:
        return status
    return _peek(os.path.join(system, paths.escape(root), _name(name, role)), name, role)


@dataclass(frozen=True)
class _Schema:
    schema_version: int


def _other_schema(path: str, schema: int, fields: Mapping[str, object]) -> Unread:
    """Why a status file is not read, and what to do."""
    version, pid, ticks = (fields.get(key) for key in LASTING[1:])
    wrote = version if isinstance(version, str) else None
    writer = pid if isinstance(pid, int) and 0 < pid <= _LARGEST_PID else None
    return Unread(
        "unknown",
        f"{path} was written by process {writer} of version {wrote or 'unknown'} of the library in schema"
        f" {schema}, and this is version {__version__}, which reads schema {SCHEMA_VERSION} only; nothing is"
        f" changed: use version {wrote or 'unknown'} for what runs, or end it with that",
        wrote,
        writer,
        ticks if isinstance(ticks, int) else None,
    )


def write(path: str, status: Status) -> None:
    """Replace a status file."""
    files.write_text(path, record.to_json(status) + "\n", status.FILE_MODE, durable=False)


def remove_own(root: str, name: str, role: Role[S]) -> None:
    """Remove a status file if this very process wrote it."""
    status = peek(root, name, role)
    if status is not None and status.pid == os.getpid():
        files.remove(file(root, name, role))


def names_left(root: str, *roles: AnyRole) -> set[str]:
    """The regions of which any file is left here: status, lock or log, or what was to become one."""
    suffixes = tuple(f".{role.name}.{suffix}" for role in roles for suffix in SUFFIXES)
    return {
        paths.region_name(entry[: -len(suffix)])
        for entry in files.final_names(directory(root))
        for suffix in suffixes
        if entry.endswith(suffix)
    }


def names(root: str, role: AnyRole) -> list[str]:
    """The regions for which there is a status file of a role."""
    suffix = f".{role.name}.json"
    try:
        entries = os.listdir(directory(root))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(paths.region_name(entry[: -len(suffix)]) for entry in entries if entry.endswith(suffix))
