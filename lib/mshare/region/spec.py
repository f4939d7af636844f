# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification of a region, checked."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping as Fields
from dataclasses import dataclass
from typing import Any

from ..backends.choose import BACKENDS
from ..backends.mapping import Mapping, protection
from ..converge.spec import (
    Converter,
    Spec,
    absolute_path,
    convert,
    file_mode,
    flag,
    nonempty_text,
    one_of,
    parse_number,
    systemd_units,
)
from ..errors import InvalidRequest
from ..kernel import abi
from ..pagetable import BASE_PAGE_BYTES
from ..units import parse_size, round_up
from . import rules

_MAPPING_KEYS: dict[str, Converter] = {
    "kind": one_of(("anonymous", "hugetlb", "file")),
    "offset": parse_number,
    "size": parse_size,
    "path": absolute_path,
    "file_offset": parse_number,
    "protection": lambda value, what: protection(value),
}


def _mappings(value: Any, what: str) -> tuple[Mapping, ...]:
    """A list of dicts; an object without an offset follows the previous one."""
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{what} must be a list of mappings, each with a size")
    placed: list[Mapping] = []
    for number, entry in enumerate(value):
        # At 2 MiB, so that the next object stays congruent to huge pages.
        next_offset = round_up(placed[-1].end, abi.HUGE_PAGE_BYTES) if placed else 0
        placed.append(mapping_from_dict(entry, f"{what}[{number}]", next_offset))
    return tuple(placed)


def mapping_from_dict(entry: Fields[str, object], what: str = "mapping", next_offset: int = 0) -> Mapping:
    """Check and normalize a mapping; without an offset it lies at `behind`. Undoes mapping_to_dict."""
    given = convert(entry, _MAPPING_KEYS, what)
    kind = given.get("kind", "file" if "path" in given else "anonymous")
    if "size_bytes" not in given:
        raise InvalidRequest(f"{what} needs a size")
    if (kind == "file") != ("path" in given):
        raise InvalidRequest(f"{what} is of kind {kind}; give a path for a file, and only for a file")
    page = abi.HUGE_PAGE_BYTES if kind == "hugetlb" else BASE_PAGE_BYTES
    return Mapping(
        offset=given.get("offset", next_offset),
        size_bytes=round_up(given["size_bytes"], page),
        kind=kind,
        # Files are read-only by default.
        prot=given.get("protection", protection("r" if kind == "file" else "rw")),
        path=given.get("path"),
        object_offset=given.get("file_offset", 0),
    )


@dataclass(frozen=True)
class RegionSpec(Spec):
    """A region that should exist, with either a size (one anonymous mapping) or mappings."""

    name: str
    mappings: tuple[Mapping, ...]
    window_bytes: int | None = None
    address: int | None = None
    mode: int = 0o600
    owner: str | None = None
    group: str | None = None
    backend: str = "auto"
    root: str | None = None
    overcommit: bool = False
    prefault: bool = False
    pattern: bool = False
    """Whether the owner writes bytes that our clients verify: for trials, not databases."""
    memory_max_bytes: int | None = None
    """The most memory for the region, enforced by systemd on its owner, who is charged for it."""
    before: tuple[str, ...] = ()
    """systemd units that start after the region and stop before it, such as the database's."""

    def to_dict(self) -> dict[str, object]:
        """The normal form; a single anonymous mapping is a size."""
        entries = super().to_dict()
        if self.mappings and self.mappings == (Mapping(0, self.mapped_bytes),):
            del entries["mappings"]
            entries["size"] = self.mapped_bytes
        return entries

    def ids(self) -> tuple[int, int]:
        """The uid and gid that the region should have; -1 for any. InvalidRequest for a name that this host
        does not know."""
        try:
            uid = pwd.getpwnam(self.owner).pw_uid if self.owner else -1
        except KeyError:
            raise InvalidRequest(
                f"region {self.name}'s owner: this host has no user {self.owner!r}; create it first, or"
                f" choose another user"
            ) from None
        try:
            gid = grp.getgrnam(self.group).gr_gid if self.group else -1
        except KeyError:
            raise InvalidRequest(
                f"region {self.name}'s group: this host has no group {self.group!r}; create it first, or"
                f" set mshare_msharefs_group for the whole play (the role msharefs creates that group)"
            ) from None
        return uid, gid

    @property
    def mapped_bytes(self) -> int:
        return sum(mapping.size_bytes for mapping in self.mappings)

    @property
    def memory_bytes(self) -> int:
        """The region's own memory, without files."""
        return sum(mapping.size_bytes for mapping in self.mappings if mapping.kind != "file")

    @classmethod
    def from_dict(cls, given: Fields[str, object], what: str = "region") -> RegionSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "name": lambda value, what: rules.region_name(value),
            "size": parse_size,
            "mappings": _mappings,
            "window": parse_size,
            "address": parse_number,
            "mode": file_mode,
            "owner": nonempty_text,
            "group": nonempty_text,
            "backend": one_of(BACKENDS),
            "root": absolute_path,
            "overcommit": flag,
            "prefault": flag,
            "pattern": flag,
            "memory_max": parse_size,
            "before": systemd_units,
            "comment": nonempty_text,
        }
        values = convert(given, converters, what)
        values.pop("comment", None)
        rules.region_name(values.get("name", ""))
        size_bytes = values.pop("size_bytes", None)
        if (size_bytes is None) == (not values.get("mappings")):
            raise InvalidRequest(f"{what} {values['name']} needs either a size, like 300GiB, or mappings")
        if size_bytes is not None:
            values["mappings"] = (Mapping(0, round_up(size_bytes, BASE_PAGE_BYTES)),)
        spec = cls(**values)
        if spec.prefault and spec.memory_max_bytes is not None:
            rules.memory_limit(spec.name, spec.memory_bytes, spec.memory_max_bytes)
        return spec
