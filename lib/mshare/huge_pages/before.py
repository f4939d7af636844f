# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was there before the first change, written down so that it can be put back."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import paths, record

SCHEMA_VERSION = 1
_NEXT_STEP = "move it away to have what is there now taken for what was there before"


@dataclass(frozen=True)
class PoolBefore:
    """A pool that was changed."""

    page_bytes: int
    node: int | None
    before: int
    wanted: int
    """What it was changed to last."""
    granted: int | None = None
    """What the kernel granted then, read back; None while that is not known: the run did not end."""
    boot_id: str | None = None
    """The boot in which it was."""

    def _left(self, boot_id: str | None) -> tuple[int, int]:
        """The least and the most pages that the pool has if nobody else has changed it."""
        if self.granted is None or self.boot_id != boot_id:
            # A run that was interrupted, or a boot, which may grant fewer pages than the files ask for.
            return min(self.before, self.wanted), max(self.before, self.wanted)
        return self.granted, self.granted

    def is_smaller(self, current: int, boot_id: str | None) -> bool:
        """Whether somebody else has made the pool smaller since."""
        return current < self._left(boot_id)[0]

    def back(self, current: int, boot_id: str | None) -> int:
        """How many pages the pool would have without us. What others added is theirs; a pool that they made
        smaller is as they want it."""
        if self.is_smaller(current, boot_id):
            return current
        return self.before + max(0, current - self._left(boot_id)[1])


@dataclass(frozen=True)
class SettingBefore:
    """A setting of the kernel that was changed, by its file in /sys or /proc/sys."""

    path: str
    before: str
    wanted: str


@dataclass(frozen=True)
class FileBefore:
    """A file that was written."""

    path: str
    text: str | None
    """None: there was none."""
    mode: int | None
    uid: int | None
    gid: int | None
    folder_made: bool
    """Whether its folder was made for it."""
    written: str | None = None
    """What was written into it last; None while that is not known: the run did not end."""

    def is_foreign(self, current: str | None) -> bool:
        """Whether somebody else has changed or removed the file since."""
        return self.written is not None and current not in (self.written, self.text)


@dataclass(frozen=True)
class Before:
    """What was there before."""

    schema_version: int = SCHEMA_VERSION
    pools: tuple[PoolBefore, ...] = ()
    settings: tuple[SettingBefore, ...] = ()
    files: tuple[FileBefore, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pools or self.settings or self.files)

    @property
    def is_unfinished(self) -> bool:
        """Whether a run that wrote this did not end, so that what it made is not known."""
        return any(each.granted is None for each in self.pools) or any(
            each.written is None for each in self.files
        )

    def pool(self, page_bytes: int, node: int | None) -> PoolBefore | None:
        return next((each for each in self.pools if (each.page_bytes, each.node) == (page_bytes, node)), None)

    def setting(self, path: str) -> SettingBefore | None:
        return next((each for each in self.settings if each.path == path), None)

    def file(self, path: str) -> FileBefore | None:
        return next((each for each in self.files if each.path == path), None)


def file_path() -> str:
    """Where it is written down. It survives a reboot, as what it is about does."""
    return os.path.join(paths.config_dir(), "huge-pages.json")


def load() -> Before:
    """What is written down; nothing where nothing was changed.

    Malformed, naming the field, for a damaged file; Conflict for one of another release; Unavailable for
    who may not read it.
    """
    otherwise = f"use the release that wrote it, or {_NEXT_STEP}"
    place = record.Place(file_path(), _NEXT_STEP)
    return record.load_kept(Before, place, SCHEMA_VERSION, otherwise) or Before()


def save(before: Before) -> None:
    """Write it down, or remove the file when nothing is left to put back."""
    record.save_kept(before, file_path())
