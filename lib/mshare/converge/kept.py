# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A record of what was there before a change, in a file below /etc/mshare that root alone may read."""

from __future__ import annotations

from typing import TypeVar

from .. import files, paths, record
from ..errors import Unavailable

R = TypeVar("R")


def load(cls: type[R], place: record.Place, version: int, otherwise: str) -> R | None:
    """The record; None where there is no file.

    Raises Malformed, naming the field, for a damaged file, Conflict for one of another release (`otherwise`
    is what to do then), and Unavailable for a user that may not read it.
    """
    try:
        data = files.read_bytes(place.source)
    except PermissionError:
        raise Unavailable(
            f"{place.source} has what was there before, and may be read by root only; run as root"
            " (become: true)"
        ) from None
    return None if data is None else record.parse_version(cls, data, place, version, otherwise)


def save(kept: object, path: str) -> None:
    """Write a record down, or remove its file when nothing is left to put back (the record is false)."""
    if kept:
        files.write_text(path, record.to_json(kept) + "\n", 0o600)
        return
    files.remove(path)
    files.remove_empty(paths.config_dir())
