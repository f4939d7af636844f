# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification of a mount, checked."""

from __future__ import annotations

import grp
from collections.abc import Mapping as Fields
from dataclasses import dataclass

from ..backends.choose import BACKENDS
from ..converge.spec import Converter, Spec, absolute_path, convert, file_mode, flag, nonempty_text, one_of
from ..errors import InvalidRequest
from ..kernel.generations import generation
from ..region.rules import directory_name
from ..units import parse_size


@dataclass(frozen=True)
class DirectorySpec(Spec):
    """A directory of regions that should be there, or should not."""

    name: str
    mode: int = 0o3770
    group: str | None = None
    state: str = "present"

    @property
    def present(self) -> bool:
        return self.state == "present"

    def gid(self) -> int:
        """The gid that it should have, -1 for any; InvalidRequest for a group that is not on this host."""
        try:
            return grp.getgrnam(self.group).gr_gid if self.group else -1
        except KeyError:
            raise InvalidRequest(
                f"directory {self.name} should belong to group {self.group!r}, which does not exist; create"
                " it first"
            ) from None

    @classmethod
    def from_dict(cls, given: Fields[str, object], what: str = "directory") -> DirectorySpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "name": lambda value, what: directory_name(value),
            "mode": file_mode,
            "group": nonempty_text,
            "state": one_of(("present", "absent")),
        }
        values = convert(given, converters, what)
        directory_name(values.get("name", ""))
        return cls(**values)


def _directories(value: object, what: str) -> tuple[DirectorySpec, ...]:
    """A list of dicts. InvalidRequest for a name that is in it twice, and for one that is to be in a
    directory that is to be absent."""
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{what} must be a list of directories, each with a name")
    wanted = [DirectorySpec.from_dict(entry, f"{what}[{number}]") for number, entry in enumerate(value)]
    by_name = {spec.name: spec for spec in wanted}
    for name, spec in by_name.items():
        if sum(each.name == name for each in wanted) > 1:
            raise InvalidRequest(f"{what} have {name} more than once; use one entry per directory")
        gone = [each for each in by_name.values() if not each.present and name.startswith(f"{each.name}/")]
        if spec.present and gone:
            raise InvalidRequest(f"{what} have {name} present in {gone[0].name}, which should be absent")
    return tuple(sorted(wanted, key=lambda each: each.name))


@dataclass(frozen=True)
class MountSpec(Spec):
    """An msharefs that should be mounted."""

    backend: str
    root: str
    generation: str | None = None
    """Simulated only: which generation to imitate."""
    size_bytes: int | None = None
    """Simulated only: the most memory its tmpfs may use."""
    mode: int = 0o1770
    group: str | None = None
    create_group: bool = False
    """Whether a missing group is created, and removed together with the mount."""
    directories: tuple[DirectorySpec, ...] = ()
    """By name."""

    @property
    def tmpfs_options(self) -> str:
        """For mount(8), simulated only. No other user has access before layout and permissions are set."""
        return "mode=0700" if self.size_bytes is None else f"mode=0700,size={self.size_bytes}"

    @classmethod
    def from_dict(cls, given: Fields[str, object], what: str = "mount") -> MountSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "backend": one_of(BACKENDS[1:]),
            "root": absolute_path,
            "generation": lambda value, what: generation(nonempty_text(value, what)).id,
            "size": parse_size,
            "mode": file_mode,
            "group": nonempty_text,
            "create_group": flag,
            "directories": _directories,
            "comment": nonempty_text,
        }
        values = convert(given, converters, what)
        values.pop("comment", None)
        for key, example in (("backend", "simulated"), ("root", "/run/msharefs")):
            if key not in values:
                raise InvalidRequest(f"{what} needs a {key}, like {example}")
        for key in ("generation", "size"):
            if given.get(key) is not None and values["backend"] == "kernel":
                raise InvalidRequest(f"{what}'s {key} is for the simulated backend; a kernel has its own")
        wanted = values.get("generation")
        if wanted is not None and generation(wanted).features.nameless and given.get("size") is not None:
            raise InvalidRequest(
                f"{what}'s size limits the files of regions, and a region of generation {wanted} has none;"
                " omit size, and limit each region with memory_max"
            )
        return cls(**values)
