# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records from JSON: whatever is missing or ill-typed is a sentence with the file and the field."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields

import pytest

from mshare import record
from mshare.clients import status as clients_status
from mshare.region import status as region_status
from mshare.runtime.manifest import Manifest
from mshare.survey.record import Survey
from rig import surveys

PLACE = record.Place("/run/x.json", "make it again")


@dataclass(frozen=True)
class Inner:
    size_bytes: int | None


@dataclass(frozen=True)
class Outer:
    name: str | None
    inner: Inner
    added_later: int | None = None


def written() -> list[tuple[type, dict[str, object]]]:
    """Each wire format with an example that its own producer wrote."""
    owner = region_status.starting("sga", "/run/msharefs", {})
    launcher = clients_status.starting("sga", "/run/msharefs", {}, 2, 4096)
    manifest = Manifest("0.1.0", None, None, (), None)
    return [
        (region_status.OwnerStatus, record.to_fields(owner)),
        (clients_status.LauncherStatus, record.to_fields(launcher)),
        (Manifest, record.to_fields(manifest)),
        (Survey, surveys.survey("db1", [])),
    ]


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        pytest.param(cls, field.name, id=f"{cls.__name__}-{field.name}")
        for cls, __ in written()
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    ],
)
def test_a_field_that_is_missing_is_named_even_if_it_may_be_null(cls: type, name: str) -> None:
    example = next(example for candidate, example in written() if candidate is cls)
    del example[name]
    with pytest.raises(record.Malformed, match=rf"/run/x\.json has no field {name}; make it again"):
        record.build(cls, example, PLACE)


def test_a_field_with_a_default_may_be_missing() -> None:
    made = record.build(Outer, {"name": None, "inner": {"size_bytes": None}}, PLACE)
    assert made == Outer(None, Inner(None), None)
    assert record.to_fields(made) == {"name": None, "inner": {"size_bytes": None}, "added_later": None}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"inner": {"size_bytes": 1}}, "has no field name;"),
        ({"name": None, "inner": {}}, "has no field inner.size_bytes;"),
        ({"name": None, "inner": None}, "has None for inner where an object is needed;"),
        ({"name": 7, "inner": {"size_bytes": 1}}, "has 7 for name where a text is needed;"),
        ({"name": None, "inner": {"size_bytes": -1}}, "has -1 for inner.size_bytes where a size is needed;"),
        ({"name": None, "inner": {"size_bytes": True}}, "has True for inner.size_bytes where a whole number"),
    ],
)
def test_what_is_wrong_is_one_sentence(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(record.Malformed, match=re.escape(f"/run/x.json {sentence}")):
        record.build(Outer, given, PLACE)
