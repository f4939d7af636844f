# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs, written down: one status file per process of ours, replaced whole, and locks."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from .. import __version__, paths
from ..errors import Conflict
from ..files import remove, write_text
from ..host import procfs

SCHEMA_VERSION = 1
"""Of the fields of a status file. What LASTING names means the same in every schema there will be."""
LASTING = ("schema_version", "version", "pid", "started_ticks")
_ROOM_BYTES = 64 * 1024
"""A status file, its successor, a log."""


def directory(root: str) -> str:
    """The directory of status files for the msharefs at a root."""
    return os.path.join(paths.state_dir(), paths.escape(root))


def make_directory(root: str) -> None:
    """Make the directory of status files for a root, below a state directory that is ours."""
    paths.make_directory(paths.state_dir())
    paths.make_directory(directory(root))


def require_room(root: str) -> None:
    """OSError (ENOSPC) where no process could write down how it is: it would start, then fail mutely."""
    make_directory(root)
    found = os.statvfs(directory(root))
    # A tmpfs without a limit says that it has no blocks at all.
    if found.f_blocks and found.f_bavail * found.f_frsize < _ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory(root))


def file(root: str, name: str, role: str, suffix: str = "json") -> str:
    """The status file, lock or log of a region's owner or clients (role "owner" or "clients")."""
    return os.path.join(directory(root), f"{name}.{role}.{suffix}")


def read(path: str) -> dict[str, Any] | None:
    """A status file's fields, or None where there is none, or one of another schema whose writer ended.

    Raises Conflict for one of another schema whose writer lives: what is not understood is not decided on.
    """
    fields = _load(path)
    if fields is None or _readable(fields):
        return fields
    if process_alive(fields):
        raise Conflict(other_schema(path, fields))
    return None


def look(path: str) -> dict[str, Any] | None:
    """A status file's fields for who only looks: of another schema those that mean the same in all."""
    fields = _load(path)
    if fields is None or _readable(fields):
        return fields
    lasting = {key: fields.get(key) for key in LASTING}
    return {**lasting, "state": "unknown", "error": {"message": other_schema(path, fields)}}


def _load(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as stream:
            fields: dict[str, Any] = json.load(stream)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    return fields


def _readable(fields: dict[str, Any]) -> bool:
    return fields.get("schema_version") == SCHEMA_VERSION


def other_schema(path: str, fields: dict[str, Any]) -> str:
    """Why a status file is not read, and what to do."""
    wrote = fields.get("version") or "unknown"
    return (
        f"{path} was written by process {fields.get('pid')} of version {wrote} of the library in schema"
        f" {fields.get('schema_version')}, and this is version {__version__}, which reads schema"
        f" {SCHEMA_VERSION} only; nothing is changed: use version {wrote} for what runs, or end it with that"
    )


def write(path: str, fields: dict[str, Any]) -> None:
    """Replace a status file. It says who wrote it: a process that goes on after the library has changed."""
    versions = {"schema_version": SCHEMA_VERSION, "version": __version__}
    write_text(path, json.dumps({**versions, **fields}, sort_keys=True) + "\n")


def remove_own(path: str) -> None:
    """Remove a status file if this very process wrote it."""
    if (read(path) or {}).get("pid") == os.getpid():
        remove(path)


def names(root: str, role: str) -> list[str]:
    """The regions for which there is a status file of a role."""
    suffix = f".{role}.json"
    try:
        entries = os.listdir(directory(root))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(entry[: -len(suffix)] for entry in entries if entry.endswith(suffix))


def process_alive(fields: dict[str, Any] | None) -> bool:
    """Whether the process that wrote a status file still runs."""
    return (
        fields is not None
        and fields.get("pid") is not None
        and procfs.alive(fields["pid"], fields["started_ticks"])
    )
