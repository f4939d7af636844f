# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON that may hold anything, read into frozen dataclasses: a record or one sentence, never a traceback.

A record's annotations are its schema. Every field must be there: None is written out as null. Only a field
with a default may be missing, which is how a field is added to a format that exists. Unknown fields are left
alone, because a later version of the library may write more of them.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Literal, NoReturn, Protocol, TypeVar, cast, get_args, get_origin, runtime_checkable

from . import files
from .errors import Conflict, InvalidRequest, MshareError, Unavailable

R = TypeVar("R")
_SHOWN_CHARACTERS = 40
_LARGEST = (1 << 64) - 1


class Malformed(MshareError):
    """A file, or an answer, that is not what it should be: the sentence names the file and the field."""


@dataclass(frozen=True)
class Place:
    """Where a value is, for the sentence that says what is wrong with it."""

    source: str
    """The file's path."""
    next_step: str
    """What to do about a file that cannot be read."""
    field: str = ""

    def inside(self, name: str) -> Place:
        joined = name if not self.field or name.startswith("[") else f".{name}"
        return Place(self.source, self.next_step, self.field + joined)

    def fail(self, reason: str) -> NoReturn:
        raise Malformed(f"{self.source} {reason}; {self.next_step}")

    def refuse(self, value: object, needed: str) -> NoReturn:
        shown = ascii(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[:_SHOWN_CHARACTERS] + "..."
        self.fail(f"has {shown} for {self.field or 'the whole file'} where {needed} is needed")


@runtime_checkable
class Written(Protocol):
    """A record that is not written field by field."""

    def to_fields(self) -> dict[str, object]: ...


Reader = Callable[[object, Place], object]


def load(text: str | bytes, source: str, next_step: str) -> dict[str, object]:
    """The fields of a JSON object; Malformed for anything else, and for NaN and infinite numbers."""
    place = Place(source, next_step)
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        value = json.loads(decoded, parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError:
        place.fail("is not UTF-8 text")
    except RecursionError:
        place.fail("is nested too deeply to be read")
    except ValueError as error:
        place.fail(f"is not valid JSON ({error})")
    if not isinstance(value, dict):
        place.refuse(value, "an object")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:_SHOWN_CHARACTERS]} is too large a number")
    return number


def parse(cls: type[R], text: str | bytes, source: str, next_step: str) -> R:
    """Read a record from the text of a file; Malformed, naming the file and the field."""
    return build(cls, load(text, source, next_step), Place(source, next_step))


def parse_version(cls: type[R], text: str | bytes, place: Place, version: int, otherwise: str) -> R:
    """As `parse`, of a format with a schema version; Conflict, which ends in `otherwise`, for another one."""
    given = load(text, place.source, place.next_step)
    if given.get("schema_version") != version:
        raise Conflict(
            f"{place.source} has the schema_version {given.get('schema_version')!r} of another release, and"
            f" this one reads {version}; {otherwise}"
        )
    return build(cls, given, place)


def load_kept(cls: type[R], place: Place, version: int, otherwise: str) -> R | None:
    """What root keeps of a host as it was, in a file that root alone may read; None where there is no file.

    Raises as `parse_version`, and Unavailable for a user that may not read it.
    """
    try:
        data = files.read_bytes(place.source)
    except PermissionError:
        raise Unavailable(
            f"{place.source} has what was there before, and may be read by root only; run as root"
            " (become: true)"
        ) from None
    return None if data is None else parse_version(cls, data, place, version, otherwise)


def save_kept(kept: object, path: str) -> None:
    """Write down what is kept, or remove its file when nothing is left to put back (the record is false)."""
    if kept:
        files.write_text(path, to_json(kept) + "\n", 0o600)
        return
    files.remove(path)
    files.remove_empty(os.path.dirname(path))


def build(cls: type[R], value: object, place: Place) -> R:
    """Make a record of JSON's values; Malformed, naming the field."""
    if not isinstance(value, Mapping):
        place.refuse(value, "an object")
    given: dict[str, object] = {}
    for name, (reader, required) in _schema(cast(Hashable, cls)).items():
        if name in value:
            given[name] = reader(value[name], place.inside(name))
        elif required:
            where = place.inside(name).field
            raise Malformed(f"{place.source} has no field {where}; {place.next_step}")
    try:
        return cls(**given)
    except InvalidRequest as error:
        place.fail(f"holds what cannot be: {error}")


def to_fields(record: object) -> dict[str, object]:
    """A record as JSON's values: what `build` takes."""
    if isinstance(record, Written):
        return record.to_fields()
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    assert is_dataclass(record)
    return {field.name: plain(getattr(record, field.name)) for field in fields(record)}


def to_json(record: object, **more: object) -> str:
    """A record as one line of JSON, with `more` fields."""
    return json.dumps({**to_fields(record), **more}, sort_keys=True)


def plain(value: object) -> object:
    """A value as JSON has it: records, lists and mappings all the way down."""
    if is_dataclass(value):
        return to_fields(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


# -- a class's annotations as readers. They are texts: Python 3.9 cannot evaluate `int | None`.


@functools.lru_cache(maxsize=None)  # noqa: UP033
def _schema(cls: Hashable) -> dict[str, tuple[Reader, bool]]:
    """By field: what reads it, and whether it must be there."""
    readers: dict[str, Reader] = {}
    assert isinstance(cls, type)
    for owner in reversed(cls.__mro__):
        names = {**vars(sys.modules[owner.__module__])}
        for name, annotation in vars(owner).get("__annotations__", {}).items():
            node = ast.parse(annotation, mode="eval").body
            reader = _reader(node, names)
            readers[name] = _sized(reader) if name.endswith("_bytes") else reader
    return {
        field.name: (
            readers[field.name],
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(cls)
    }


def _reader(node: ast.expr, names: Mapping[str, object]) -> Reader:
    if isinstance(node, ast.BinOp):
        assert ast.unparse(node.right) == "None", "a record's field is of one type, or None"
        return _nullable(_reader(node.left, names))
    if isinstance(node, ast.Subscript):
        kind = ast.unparse(node.value)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if kind == "Literal":
            return _one_of(tuple(ast.literal_eval(item) for item in items))
        if kind == "tuple":
            return _tuple_of(_reader(items[0], names))
        if kind == "list":
            return _list_of(_reader(items[0], names))
        assert kind in ("dict", "Mapping"), kind
        return _mapping_of(_reader(items[1], names))
    name = ast.unparse(node)
    if name in _SCALARS:
        return _SCALARS[name]
    nested = names[name]
    if get_origin(nested) is Literal:
        return _one_of(get_args(nested))
    assert isinstance(nested, type), name
    return lambda value, place: build(nested, value, place)


def _nullable(reader: Reader) -> Reader:
    return lambda value, place: None if value is None else reader(value, place)


def _sized(reader: Reader) -> Reader:
    """A size in bytes, which is never negative."""

    def read(value: object, place: Place) -> object:
        size = reader(value, place)
        if isinstance(size, int) and size < 0:
            place.refuse(value, "a size")
        return size

    return read


def _tuple_of(reader: Reader) -> Reader:
    def read(value: object, place: Place) -> object:
        if not isinstance(value, (list, tuple)):
            place.refuse(value, "a list")
        return tuple(reader(item, place.inside(f"[{number}]")) for number, item in enumerate(value))

    return read


def _list_of(reader: Reader) -> Reader:
    read_tuple = _tuple_of(reader)
    return lambda value, place: [*cast("tuple[object, ...]", read_tuple(value, place))]


def _mapping_of(reader: Reader) -> Reader:
    def read(value: object, place: Place) -> object:
        if not isinstance(value, Mapping):
            place.refuse(value, "an object")
        return {str(key): reader(item, place.inside(str(key))) for key, item in value.items()}

    return read


def _one_of(choices: tuple[object, ...]) -> Reader:
    def read(value: object, place: Place) -> object:
        if not isinstance(value, str) or value not in choices:
            place.refuse(value, "one of " + ", ".join(map(str, choices)))
        return value

    return read


def _whole(value: object, place: Place) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        place.refuse(value, "a whole number of at most 64 bits")
    return value


def _number(value: object, place: Place) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > _LARGEST:
        place.refuse(value, "a number")
    return value


def _text(value: object, place: Place) -> str:
    if not isinstance(value, str):
        place.refuse(value, "a text")
    try:
        # The names of files may be other bytes than UTF-8, which Python keeps as lone surrogates.
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        place.refuse(value, "a text")
    return value


def _flag(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        place.refuse(value, "true or false")
    return value


_SCALARS: dict[str, Reader] = {
    "int": _whole,
    "float": _number,
    "str": _text,
    "bool": _flag,
    "object": lambda value, place: value,
}
