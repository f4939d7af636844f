# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted, as files and module parameters say it: mounts, regions and clients.

A spec is checked whole before anything is done; unknown keys are errors. `to_dict` gives the one
normal form, so that two specs are equal when their dicts are.
"""

from __future__ import annotations

import difflib
import grp
import json
import pwd
import re
from collections.abc import Mapping as Fields
from dataclasses import dataclass, fields
from typing import Any, Callable

from . import abi, rules
from .backends import BACKENDS
from .backends.base import Mapping
from .errors import InvalidRequest
from .generations import generation
from .pagetable import BASE_PAGE_BYTES, STRIDE_BYTES
from .units import parse_size, round_up


def _known_keys(given: Fields[str, Any], known: list[str], what: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]}?" if close else "known keys are " + ", ".join(known)
            raise InvalidRequest(f"{what} has the unknown key {key!r}; {hint}")


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what} {value!r} is neither true nor false")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{what} {value!r} is not a text")
    return value


def parse_number(value: Any, what: str) -> int:
    """A whole number, decimal or 0x..., as an offset or an address."""
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else int(str(value), 0)
    except ValueError:
        number = parse_size(value, what)
    if number < 0:
        raise InvalidRequest(f"{what} {value!r} is negative")
    return number


def file_mode(value: Any, what: str = "mode") -> int:
    """0o660 from "0660" or "660"."""
    if isinstance(value, int):
        raise InvalidRequest(
            f"{what} {value!r} is no text, and YAML makes other digits of some numbers; write it in quotes,"
            " like '0660'"
        )
    try:
        mode = int(value, 8)
    except (TypeError, ValueError):
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InvalidRequest(f"{what} {value!r} is not a file mode; write it like '0660'")
    return mode


def _one_of(choices: tuple[str, ...]) -> Callable[[Any, str], str]:
    def check(value: Any, what: str) -> str:
        if value not in choices:
            raise InvalidRequest(f"{what} {value!r} is unknown; write one of " + ", ".join(choices))
        return str(value)

    return check


def _absolute(value: Any, what: str) -> str:
    path = _text(value, what)
    if not path.startswith("/"):
        raise InvalidRequest(f"{what} {path!r} is not an absolute path")
    return path


def _command(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value or not value[0]:
        raise InvalidRequest(f"{what} {value!r} is not a list of a program and its arguments")
    return tuple(str(word) for word in value)


def _units(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{what} {value!r} is not a list of systemd units")
    for unit in value:
        if not re.match(r"[A-Za-z0-9:_.@\\-]+\.[a-z]+\Z", str(unit)):
            raise InvalidRequest(f"{what} {unit!r} is not a systemd unit; write it like postgresql.service")
    return tuple(value)


Converter = Callable[[Any, str], Any]


def _convert(given: Fields[str, Any], converters: dict[str, Converter], what: str) -> dict[str, Any]:
    """Check a dict key by key; keys that are None are as if they were not there."""
    _known_keys(given, list(converters), what)
    return {
        key: converters[key](value, f"{what}'s {key}") for key, value in given.items() if value is not None
    }


_MAPPING_KEYS: dict[str, Converter] = {
    "kind": _one_of(("anonymous", "hugetlb", "file")),
    "offset": parse_number,
    "size": parse_size,
    "path": _absolute,
    "file_offset": parse_number,
    "protection": lambda value, what: rules.protection(value),
}


def _mappings(value: Any, what: str) -> tuple[Mapping, ...]:
    """A list of dicts; an object without an offset comes behind the one before it."""
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{what} must be a list of mappings")
    placed: list[Mapping] = []
    for number, entry in enumerate(value):
        # 2 MiB: what comes behind stays congruent to huge pages.
        behind = round_up(placed[-1].end, abi.HUGE_PAGE_BYTES) if placed else 0
        placed.append(mapping_from_dict(entry, f"{what}[{number}]", behind))
    return tuple(placed)


def mapping_from_dict(entry: Fields[str, Any], what: str = "mapping", behind: int = 0) -> Mapping:
    """Check and normalize a mapping; without an offset it lies at `behind`. Undoes mapping_to_dict."""
    given = _convert(entry, _MAPPING_KEYS, what)
    kind = given.get("kind", "file" if "path" in given else "anonymous")
    if "size" not in given:
        raise InvalidRequest(f"{what} needs a size")
    if (kind == "file") != ("path" in given):
        raise InvalidRequest(f"{what} is of kind {kind}: a path is for files, and they need one")
    page = abi.HUGE_PAGE_BYTES if kind == "hugetlb" else BASE_PAGE_BYTES
    return Mapping(
        offset=given.get("offset", behind),
        size_bytes=round_up(given["size"], page),
        kind=kind,
        # A file is shared to be read unless somebody says otherwise.
        prot=given.get("protection", rules.protection("r" if kind == "file" else "rw")),
        path=given.get("path"),
        object_offset=given.get("file_offset", 0),
    )


def mapping_to_dict(mapping: Mapping) -> dict[str, Any]:
    """The normal form of a mapping in specs, status files and answers."""
    entry: dict[str, Any] = {
        "kind": mapping.kind,
        "offset": mapping.offset,
        "size": mapping.size_bytes,
        "protection": rules.protection_name(mapping.prot),
    }
    if mapping.kind == "file":
        entry.update(path=mapping.path, file_offset=mapping.object_offset)
    return entry


@dataclass(frozen=True)
class Spec:
    """What the three kinds have in common: the msharefs they are about."""

    def to_dict(self) -> dict[str, Any]:
        """The normal form: what `from_dict` takes; nothing that was left open."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: _plain(key, value) for key, value in entries.items() if value not in (None, ())}

    def to_json(self) -> str:
        """The text of a spec file."""
        comment = {"comment": "Managed by dbmem.mshare; changes made here are overwritten."}
        return json.dumps({**comment, **self.to_dict()}, indent=2) + "\n"


def _plain(key: str, value: Any) -> Any:
    if key == "mode":
        return f"{value:04o}"
    if isinstance(value, tuple):
        return [mapping_to_dict(item) if isinstance(item, Mapping) else item for item in value]
    return value


@dataclass(frozen=True)
class RegionSpec(Spec):
    """A region that should exist. Either a size (one anonymous mapping) or mappings."""

    name: str
    mappings: tuple[Mapping, ...]
    window: int | None = None
    address: int | None = None
    mode: int = 0o600
    owner: str | None = None
    group: str | None = None
    backend: str = "auto"
    root: str | None = None
    overcommit: bool = False
    prefault: bool = False
    pattern: bool = False
    """Whether the owner leaves bytes in the memory that clients of ours verify: for trials, not databases."""
    memory_max: int | None = None
    """The most memory that systemd lets the region (its owner, who is charged for it) have."""
    before: tuple[str, ...] = ()
    """systemd units that start after the region and stop before it: the database's."""

    def to_dict(self) -> dict[str, Any]:
        """The normal form; one anonymous mapping is a size."""
        entries = super().to_dict()
        if self.mappings and self.mappings == (Mapping(0, self.mapped_bytes),):
            del entries["mappings"]
            entries["size"] = self.mapped_bytes
        return entries

    def ids(self) -> tuple[int, int]:
        """The uid and gid the region should have; -1 where that is left open. InvalidRequest for a name
        that this host does not know."""
        try:
            uid = pwd.getpwnam(self.owner).pw_uid if self.owner else -1
        except KeyError:
            raise InvalidRequest(
                f"region {self.name}'s owner: this host has no user {self.owner!r}"
            ) from None
        try:
            gid = grp.getgrnam(self.group).gr_gid if self.group else -1
        except KeyError:
            raise InvalidRequest(
                f"region {self.name}'s group: this host has no group {self.group!r}"
            ) from None
        return uid, gid

    @property
    def mapped_bytes(self) -> int:
        return sum(mapping.size_bytes for mapping in self.mappings)

    @property
    def memory_bytes(self) -> int:
        """What of it is the region's own memory, not a file's."""
        return sum(mapping.size_bytes for mapping in self.mappings if mapping.kind != "file")

    @classmethod
    def from_dict(cls, given: Fields[str, Any], what: str = "region") -> RegionSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "name": lambda value, what: rules.region_name(value),
            "size": parse_size,
            "mappings": _mappings,
            "window": parse_size,
            "address": parse_number,
            "mode": file_mode,
            "owner": _text,
            "group": _text,
            "backend": _one_of(BACKENDS),
            "root": _absolute,
            "overcommit": _flag,
            "prefault": _flag,
            "pattern": _flag,
            "memory_max": parse_size,
            "before": _units,
            "comment": _text,
        }
        values = _convert(given, converters, what)
        values.pop("comment", None)
        rules.region_name(values.get("name", ""))
        size = values.pop("size", None)
        if (size is None) == (not values.get("mappings")):
            raise InvalidRequest(f"{what} {values['name']} needs either a size, like 300GiB, or mappings")
        if size is not None:
            values["mappings"] = (Mapping(0, round_up(size, BASE_PAGE_BYTES)),)
        spec = cls(**values)
        if spec.prefault and spec.memory_max is not None:
            rules.memory_limit(spec.name, spec.memory_bytes, spec.memory_max)
        return spec


@dataclass(frozen=True)
class ClientsSpec(Spec):
    """Processes that should be attached to a region."""

    region: str
    count: int
    command: tuple[str, ...] = ()
    """The program of each client; without one they are ours: attach, touch, verify, wait."""
    touch: bool = True
    span: int | None = None
    """Bytes that each client touches; None fits it to the host's free memory."""
    stride: int = STRIDE_BYTES
    settle_seconds: int = 1
    """A command that ends within this time counts as failed."""
    backend: str = "auto"
    root: str | None = None

    @classmethod
    def from_dict(cls, given: Fields[str, Any], what: str = "clients") -> ClientsSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "region": lambda value, what: rules.region_name(value),
            "count": lambda value, what: rules.client_count(_whole(value, what)),
            "command": _command,
            "touch": _flag,
            "span": parse_size,
            "stride": parse_size,
            "settle_seconds": parse_number,
            "backend": _one_of(BACKENDS),
            "root": _absolute,
            "comment": _text,
        }
        values = _convert(given, converters, what)
        values.pop("comment", None)
        rules.region_name(values.get("region", ""))
        if "count" not in values:
            raise InvalidRequest(f"{what} of region {values['region']} need a count, like 100")
        spec = cls(**values)
        if spec.span is not None and (spec.command or not spec.touch):
            raise InvalidRequest(
                f"{what}'s span is how much of region {spec.region} the library's clients touch; leave it out"
                " with a command or with touch: false"
            )
        if spec.stride % BASE_PAGE_BYTES:
            raise InvalidRequest(f"{what}'s stride {spec.stride} is not a multiple of a page (4096)")
        return spec


def _whole(value: Any, what: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{what} {value!r} is not a whole number") from None


@dataclass(frozen=True)
class MountSpec(Spec):
    """An msharefs that should be mounted."""

    backend: str
    root: str
    generation: str | None = None
    """Simulated only: which generation to play."""
    size: int | None = None
    """Simulated only: the most memory its tmpfs may take."""
    mode: int = 0o1770
    group: str | None = None
    create_group: bool = False
    """Whether a group that does not exist is made, and removed again with the mount."""

    @property
    def tmpfs_options(self) -> str:
        """For mount(8), simulated only. Nobody else gets in before it has its layout and its access."""
        return "mode=0700" if self.size is None else f"mode=0700,size={self.size}"

    @classmethod
    def from_dict(cls, given: Fields[str, Any], what: str = "mount") -> MountSpec:
        """Check and normalize; InvalidRequest names the key and the value."""
        converters: dict[str, Converter] = {
            "backend": _one_of(BACKENDS[1:]),
            "root": _absolute,
            "generation": lambda value, what: generation(_text(value, what)).id,
            "size": parse_size,
            "mode": file_mode,
            "group": _text,
            "create_group": _flag,
            "comment": _text,
        }
        values = _convert(given, converters, what)
        values.pop("comment", None)
        for key in ("generation", "size"):
            if key in values and values["backend"] == "kernel":
                raise InvalidRequest(f"{what}'s {key} is for the simulated backend; a kernel has its own")
        return cls(**values)


def load(path: str) -> dict[str, Any]:
    """The keys of a spec file, JSON or YAML; InvalidRequest where it is neither."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        given = json.loads(text)
    except ValueError:
        given = _load_yaml(text, path)
    if not isinstance(given, dict):
        raise InvalidRequest(f"{path} holds no keys and values; see `mshare own --help` for an example")
    return given


def _load_yaml(text: str, path: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise InvalidRequest(
            f"{path} is not JSON, and reading YAML needs PyYAML; install the package python3-yaml"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{path} is not YAML: {' '.join(str(error).split())}") from None
