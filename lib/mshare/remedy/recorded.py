# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done to a host, written down before it is done, so that it can be undone.

Each part keeps what it needs to put its own files back byte for byte: a cluster in /etc/mshare/postgresql,
the pool in /etc/mshare/huge-pages.json. This file says which of them are the remedy's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .. import paths, record
from ..postgresql.spec import ClusterSpec

SCHEMA_VERSION = 1
_NEXT_STEP = "put it back from a backup, or undo each part by its own module (state: absent) and remove it"


def spec_from(stored: Mapping[str, object] | None) -> ClusterSpec | None:
    """What a cluster was set up with, of the fields that are stored about it; None of none."""
    if stored is None:
        return None
    # What is open is left out there.
    known = {name: stored.get(name) for name in ClusterSpec.__annotations__}
    return record.build(ClusterSpec, known, record.Place(file_path(), _NEXT_STEP))


@dataclass(frozen=True)
class Entry:
    """A cluster that was changed, or is about to be."""

    version: str
    name: str
    data_directory: str
    remedy: str
    pages: str | None
    """What the cluster's server was asked to have; None for one that was collapsed as it was."""
    prefault: bool | None
    earlier: Mapping[str, object] | None
    """What its cluster was set up with before by the role postgresql; None where it was not."""

    @property
    def key(self) -> tuple[str, str]:
        return self.version, self.name

    @property
    def text(self) -> str:
        return f"{self.version}/{self.name}"

    @property
    def spec_before(self) -> ClusterSpec | None:
        """What to go back to; None: to the cluster without anything of ours."""
        return spec_from(self.earlier)


@dataclass(frozen=True)
class Recorded:
    """Everything that is the remedy's on a host."""

    schema_version: int = SCHEMA_VERSION
    pool: bool = False
    """Whether the pool of huge pages is as large as it is because of it."""
    entries: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return self.pool or bool(self.entries)

    def of(self, data_directory: str) -> Entry | None:
        wanted = os.path.realpath(data_directory)
        return next((each for each in self.entries if os.path.realpath(each.data_directory) == wanted), None)

    def with_entry(self, entry: Entry) -> Recorded:
        others = tuple(each for each in self.entries if each.key != entry.key)
        return replace(self, entries=tuple(sorted((*others, entry), key=lambda each: each.key)))

    def without(self, entry: Entry) -> Recorded:
        return replace(self, entries=tuple(each for each in self.entries if each.key != entry.key))


def file_path() -> str:
    """Where it is written down; it survives a reboot, as what it is about does."""
    return os.path.join(paths.config_dir(), "remedy.json")


def load() -> Recorded:
    """What is written down; nothing where nothing was done. Malformed, naming the field, for a damaged file;
    Conflict for one of another release; Unavailable for a user that may not read it."""
    place = record.Place(file_path(), _NEXT_STEP)
    otherwise = "undo it with the release that wrote it"
    return record.load_kept(Recorded, place, SCHEMA_VERSION, otherwise) or Recorded()


def save(recorded: Recorded) -> None:
    """Write it down, or remove the file when nothing is left to undo."""
    record.save_kept(recorded, file_path())
