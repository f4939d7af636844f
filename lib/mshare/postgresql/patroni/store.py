# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's parameters in the store of a Patroni cluster, which count for all of its members: what a
change makes of them, and the way back.

What was there before is noted in the store itself, by the same request that changes it: the host of each
member can read it, and no host that is lost takes it along. Patroni keeps a key that it does not know and
ignores it (patroni/config.py, _safe_copy_dynamic_configuration).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass

from ... import record
from ...record import Place

NOTE = "dbmem_mshare"
"""The key of our note in the store."""
_SECTION, _PARAMETERS = "postgresql", "parameters"
_TRUE, _FALSE = ("on", "true", "yes", "1"), ("off", "false", "no", "0")
_NEXT_STEP = f"correct it with `patronictl edit-config`, or remove its key {NOTE}"
Fields = Mapping[str, object]
"""The store's content, as JSON has it."""


@dataclass(frozen=True)
class Entry:
    """A parameter that we set."""

    set: object
    before: object = None
    """What it was; None if it was not there."""


@dataclass(frozen=True)
class Note:
    """What we set, and what was there."""

    parameters: dict[str, Entry]
    made: str | None = None
    """The section that was not there before: "postgresql" or "postgresql.parameters"."""

    def to_fields(self) -> dict[str, object]:
        fields: dict[str, object] = {
            "parameters": {
                name: {"set": entry.set, **({} if entry.before is None else {"before": entry.before})}
                for name, entry in self.parameters.items()
            }
        }
        return fields if self.made is None else {**fields, "made": self.made}


@dataclass(frozen=True)
class Change:
    """The store as it is, and as it is to be."""

    scope: str
    before: Fields
    after: Fields
    kept: tuple[str, ...] = ()
    """A sentence for each parameter that somebody else has changed since, and that is left as it is."""

    @property
    def differs(self) -> bool:
        return bool(self.patch)

    @property
    def patch(self) -> dict[str, object]:
        """The body of a PATCH that makes the change; null removes a key."""
        return merge_patch(self.before, self.after)

    @property
    def reverse(self) -> dict[str, object]:
        """The same for the way back."""
        return merge_patch(self.after, self.before)

    @property
    def names(self) -> list[str]:
        """The parameters that change."""
        before, after = parameters(self.before), parameters(self.after)
        return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))

    def actions(self) -> list[str]:
        """A sentence for each parameter."""
        before, after = parameters(self.before), parameters(self.after)
        return [_action(name, before.get(name), after.get(name), self.scope) for name in self.names]

    @property
    def place(self) -> str:
        """What a diff calls it."""
        return f"postgresql.parameters in the store of Patroni cluster {self.scope}"

    def lines(self, fields: Fields) -> list[str]:
        """The parameters that change, on one side of a diff."""
        values = parameters(fields)
        return [f"{name}: {json.dumps(values[name])}" for name in self.names if name in values]


def _action(name: str, before: object, after: object, scope: str) -> str:
    where = f"the store of Patroni cluster {scope} (before: {_shown(before)})"
    if after is None:
        return f"remove postgresql.parameters.{name} from {where}"
    return f"set postgresql.parameters.{name} to {_shown(after)} in {where}"


def _shown(value: object) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)


def parameters(store: Fields) -> dict[str, object]:
    """Those that have a value."""
    values = _object(_object(store.get(_SECTION)).get(_PARAMETERS))
    return {name: value for name, value in values.items() if value is not None}


def _object(value: object) -> dict[str, object]:
    """An object of JSON; empty for what is none, or not there."""
    return value if isinstance(value, dict) else {}


def noted(store: Fields, scope: str) -> Note | None:
    """Our note; None if we have changed nothing. Malformed where somebody has damaged it."""
    if store.get(NOTE) is None:
        return None
    place = Place(f"the store of Patroni cluster {scope}", _NEXT_STEP, NOTE)
    return record.build(Note, store[NOTE], place)


def change(store: Fields, scope: str, wanted: Mapping[str, str]) -> Change:
    """What sets the wanted parameters, and puts back what we set before and is not wanted any longer.

    With nothing wanted it is the way back. A parameter that has the wanted meaning already is left alone,
    and so is one that somebody else has changed since.
    """
    values = parameters(store)
    note = noted(store, scope)
    entries = {} if note is None else dict(note.parameters)
    made = _missing(store) if note is None else note.made
    names = {_spelled(values, name): value for name, value in wanted.items()}
    kept = []
    for name in [name for name in entries if name not in names]:
        entry = entries.pop(name)
        now = values.get(name)
        if now != entry.set:
            kept.append(
                f"postgresql.parameters.{name} in the store of Patroni cluster {scope} is {_shown(now)}, and"
                f" not {_shown(entry.set)}, to which this collection set it: somebody has changed it since,"
                f" so it stays as it is (before, it was {_shown(entry.before)})"
            )
        elif entry.before is None:
            del values[name]
        else:
            values[name] = entry.before
    for name, value in names.items():
        now = values.get(name)
        if means(now) == means(value):
            continue
        ours = name in entries and entries[name].set == now
        entries[name] = Entry(value, entries[name].before if ours else now)
        values[name] = value
    return Change(scope, store, _with(store, values, Note(entries, made)), tuple(kept))


def means(value: object) -> object:
    """A value so that two that PostgreSQL takes for the same are equal: YAML makes true of an on."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if value is not None else None
    return True if text in _TRUE else False if text in _FALSE else text


def _spelled(values: Mapping[str, object], name: str) -> str:
    """A parameter's name as the store has it: PostgreSQL and Patroni ignore its case."""
    return next((each for each in values if each.lower() == name), name)


def _missing(store: Fields) -> str | None:
    section = store.get(_SECTION)
    if not isinstance(section, dict):
        return _SECTION
    return None if isinstance(section.get(_PARAMETERS), dict) else f"{_SECTION}.{_PARAMETERS}"


def _with(store: Fields, values: Mapping[str, object], note: Note) -> Fields:
    """The store with parameters and a note; without the sections that we made, if nothing is left in them."""
    after = copy.deepcopy(dict(store))
    known = parameters(store)
    if values != known:
        section = {**_object(after.get(_SECTION))}
        listed = {
            name: value for name, value in _object(section.get(_PARAMETERS)).items() if name not in known
        }
        section[_PARAMETERS] = {**listed, **values}
        after[_SECTION] = section
        if note.made is not None and not note.parameters and not section[_PARAMETERS]:
            del section[_PARAMETERS]
            if note.made == _SECTION and not section:
                del after[_SECTION]
    after.pop(NOTE, None)
    if note.parameters:
        after[NOTE] = note.to_fields()
    return after


def merge_patch(now: Fields, wanted: Fields) -> dict[str, object]:
    """What turns one object into another by Patroni's PATCH, which is a JSON merge patch (RFC 7396)."""
    patch: dict[str, object] = {name: None for name in now if name not in wanted}
    for name, value in wanted.items():
        old = now.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            inner = merge_patch(old, value)
            if inner:
                patch[name] = inner
        elif name not in now or json.dumps(old) != json.dumps(value):
            patch[name] = value
    return patch
