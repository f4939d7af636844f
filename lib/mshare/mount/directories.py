# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of an msharefs: each is a tenant's, by its group and mode.

What is there is compared with what is requested, and everything that cannot be done is refused, before
anything is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .. import files
from ..backends import root as roots
from ..errors import Conflict
from ..host import accounts
from .spec import DirectorySpec


@dataclass(frozen=True)
class DirectorySeen:
    """A directory that is there."""

    mode: int
    gid: int

    def describe(self, name: str) -> dict[str, object]:
        """One side of a diff."""
        return {"name": name, "mode": f"{self.mode:04o}", "group": accounts.group(self.gid)}


@dataclass(frozen=True)
class Step:
    """Something that is to be done to a directory."""

    spec: DirectorySpec
    action: str
    """ "make", "set" or "remove" """
    before: DirectorySeen | None = None
    """What is there; None for one that is made."""

    def __str__(self) -> str:
        if self.action == "set":
            return f"set mode and group of directory {self.spec.name}"
        return f"{self.action} directory {self.spec.name}"

    def take(self, root: str) -> None:
        """Do it; OSError where it cannot be done after all."""
        name, mode = self.spec.name, self.spec.mode
        if self.action == "remove":
            roots.remove_directory(root, name)
        elif self.action == "make":
            roots.make_directory(root, name, mode, self.spec.gid())
        else:
            try:
                roots.set_directory_access(root, name, mode, self.spec.gid())
            except BaseException:
                self.undo(root)
                raise

    def undo(self, root: str) -> None:
        """Put back what was there before."""
        name, before = self.spec.name, self.before
        if before is None:
            roots.remove_directory(root, name)
        elif self.action == "remove":
            roots.make_directory(root, name, before.mode, before.gid)
        else:
            roots.set_directory_access(root, name, before.mode, before.gid)


def observe(root: str, names: Sequence[str]) -> dict[str, DirectorySeen]:
    """The directories of those names that are at a root. Conflict for something else that has the name."""
    known = {}
    for name in names:
        path = os.path.join(root, name)
        try:
            status = roots.status(root, name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise Conflict(
                f"directory {name} cannot be at {root}: {path} is {files.kind(status)}, such as a region of"
                " that name; choose another name, or remove it first"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise Conflict(
                f"{path} belongs to {accounts.user(status.st_uid)}, who could change what others have in it;"
                " remove it first"
            )
        known[name] = DirectorySeen(stat.S_IMODE(status.st_mode), status.st_gid)
    return known


def plan(
    root: str, wanted: Sequence[DirectorySpec], seen: Mapping[str, DirectorySeen], new_group: str | None
) -> list[Step]:
    """What is to be done, in order. `new_group` is a group that is created before.

    InvalidRequest for a group that this host does not have; Conflict for a directory that is to be removed
    and has something in it, and for one whose own directory is neither there nor made.
    """
    steps = list(_steps(wanted, seen, new_group))
    there = {*seen} | {spec.name for spec in wanted if spec.present}
    for step in steps:
        above = os.path.dirname(step.spec.name)
        if step.action == "make" and above and above not in there:
            raise Conflict(
                f"directory {step.spec.name} lies in directory {above}, which is not at {root}; name that in"
                " the list as well"
            )
    removed = {step.spec.name for step in steps if step.action == "remove"}
    for name in sorted(removed):
        inside = [
            each
            for each in [*roots.names(root), *roots.directories(root)]
            if os.path.dirname(each) == name and each not in removed
        ]
        if inside:
            raise Conflict(
                f"directory {name} at {root} is not empty: it has {', '.join(sorted(inside))}; remove that"
                " first (`mshare rm`): only an empty directory is removed"
            )
    return steps


def _steps(
    wanted: Sequence[DirectorySpec], seen: Mapping[str, DirectorySeen], new_group: str | None
) -> Iterator[Step]:
    """Those in a directory are removed before it, and made after it."""
    for spec in sorted(wanted, key=lambda each: each.name, reverse=True):
        if not spec.present and spec.name in seen:
            yield Step(spec, "remove", seen[spec.name])
    for spec in sorted(wanted, key=lambda each: each.name):
        if spec.present:
            gid = -2 if new_group is not None and spec.group == new_group else spec.gid()
            here = seen.get(spec.name)
            if here is None:
                yield Step(spec, "make")
            elif here.mode != spec.mode or gid not in (-1, here.gid):
                yield Step(spec, "set", here)


def described(
    wanted: Sequence[DirectorySpec], seen: Mapping[str, DirectorySeen], *, after: bool
) -> list[dict[str, object]]:
    """The directories of a request, for one side of a diff."""
    sides: list[dict[str, object]] = []
    for spec in sorted(wanted, key=lambda each: each.name):
        here = seen.get(spec.name)
        if after and spec.present:
            group = spec.group or (accounts.group(here.gid) if here else None)
            sides.append(
                {"name": spec.name, "mode": f"{spec.mode:04o}", **({"group": group} if group else {})}
            )
        elif not after and here is not None:
            sides.append(here.describe(spec.name))
    return sides
