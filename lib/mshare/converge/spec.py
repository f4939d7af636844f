# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wanted state, from files and module parameters: mounts, regions and clients.

A spec is checked whole before anything is done; unknown keys are errors. `to_dict` gives the only
normal form, so that two specs are equal when their dicts are.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping as Fields
from dataclasses import dataclass, fields
from typing import Any, Callable

from ..backends.mapping import Mapping, MappingEntry
from ..errors import InvalidRequest
from ..units import parse_size


def _known_keys(given: Fields[str, object], known: list[str], what: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]}?" if close else "known keys are " + ", ".join(known)
            raise InvalidRequest(f"{what} has the unknown key {key!r}; {hint}")


def flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{what} {value!r} is neither true nor false")
    return value


def nonempty_text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{what} {value!r} is not text")
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
            f"{what} {value!r} is not text, and YAML reads some numbers differently; write it in quotes,"
            " like '0660'"
        )
    try:
        mode = int(value, 8)
    except (TypeError, ValueError):
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise InvalidRequest(f"{what} {value!r} is not a file mode; write it like '0660'")
    return mode


def one_of(choices: tuple[str, ...]) -> Callable[[Any, str], str]:
    def check(value: Any, what: str) -> str:
        if value not in choices:
            raise InvalidRequest(f"{what} {value!r} is unknown; write one of " + ", ".join(choices))
        return str(value)

    return check


def absolute_path(value: Any, what: str) -> str:
    path = nonempty_text(value, what)
    if not path.startswith("/"):
        raise InvalidRequest(f"{what} {path!r} is not an absolute path")
    try:
        named = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise InvalidRequest(f"{what} {path!r} cannot be the name of a file")
    return path


def command_words(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not value or not value[0]:
        raise InvalidRequest(f"{what} {value!r} is not a list of a program and its arguments")
    return tuple(str(word) for word in value)


def systemd_units(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRequest(f"{what} {value!r} is not a list of systemd units")
    for unit in value:
        if not re.match(r"[A-Za-z0-9:_.@\\-]+\.[a-z]+\Z", str(unit)):
            raise InvalidRequest(f"{what} {unit!r} is not a systemd unit; write it like postgresql.service")
    return tuple(value)


Converter = Callable[[Any, str], Any]
_BYTES = "_bytes"


# Any: each key has a type of its own, and the dataclass that takes the values names it.
def convert(given: Fields[str, object], converters: dict[str, Converter], what: str) -> dict[str, Any]:
    """Check a dict key by key; keys that are None are as if they were not there.

    What a user writes as `size` has a unit of its own; parsed, it is `size_bytes`.
    """
    if not isinstance(given, Fields):
        raise InvalidRequest(f"{what} {given!r} is not a set of keys and values")
    _known_keys(given, list(converters), what)
    return {
        f"{key}{_BYTES if converters[key] is parse_size else ''}": converters[key](value, f"{what}'s {key}")
        for key, value in given.items()
        if value is not None
    }


@dataclass(frozen=True)
class Spec:
    """What the three kinds have in common: the msharefs they are about."""

    def to_dict(self) -> dict[str, object]:
        """The normal form: what `from_dict` takes; nothing that was left open."""
        entries = {field.name.removesuffix(_BYTES): getattr(self, field.name) for field in fields(self)}
        return {key: _plain(key, value) for key, value in entries.items() if value not in (None, ())}

    def to_json(self) -> str:
        """The text of a spec file."""
        comment = {"comment": "Managed by dbmem.mshare; changes made here are overwritten."}
        return json.dumps({**comment, **self.to_dict()}, indent=2) + "\n"


def _plain(key: str, value: Any) -> Any:
    if key == "mode":
        return f"{value:04o}"
    if isinstance(value, tuple):
        return [_plain_item(item) for item in value]
    return value


def _plain_item(item: Any) -> Any:
    if isinstance(item, Mapping):
        return MappingEntry.of(item).to_fields()
    return item.to_dict() if isinstance(item, Spec) else item


def load(path: str) -> dict[str, object]:
    """The keys of a spec file, not checked yet, JSON or YAML; InvalidRequest where it is neither."""
    with open(path, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode()
        given = json.loads(text)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not UTF-8 text; see `mshare own --help` for an example") from None
    except RecursionError:
        raise InvalidRequest(f"{path} is nested too deeply to be read") from None
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
    except RecursionError:
        raise InvalidRequest(f"{path} is nested too deeply to be read") from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: a date like 2026-99-99, a number with too many digits.
        raise InvalidRequest(f"{path} is not YAML: {' '.join(str(error).split())}") from None
