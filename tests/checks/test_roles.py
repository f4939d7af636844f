# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every role: its defaults, its argument specification and its README say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checks.layout import folders, load_yaml
from checks.role_tables import BEGIN, END, SECTION, table

PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "dict": (dict,),
    "float": (float, int),
    "int": (int,),
    "list": (list,),
    "path": (str,),
    "raw": (object,),
    "str": (str,),
}


@pytest.fixture(params=folders("roles"), ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    return request.param


def specified(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points. One that several of them take has one meaning."""
    options: dict[str, dict[str, Any]] = {}
    for entry_point in load_yaml(role / "meta" / "argument_specs.yml")["argument_specs"].values():
        for name, option in entry_point.get("options", {}).items():
            assert options.setdefault(name, option).get("type") == option.get("type"), name
    return options


def has_type(value: Any, kind: str) -> bool:
    """Whether a default fits its type. A template is judged when it runs, not here."""
    if isinstance(value, str) and "{{" in value:
        return True
    if isinstance(value, bool):
        return kind in ("bool", "raw")
    return isinstance(value, PYTHON_TYPES[kind])


def test_optional_variables_are_those_with_a_default(role: Path) -> None:
    optional = {name for name, option in specified(role).items() if not option.get("required", False)}
    assert set(load_yaml(role / "defaults" / "main.yml")) == optional


def test_specified_defaults_are_the_real_ones(role: Path) -> None:
    # A default of null is "not set", which an argument specification says by leaving it out.
    real = load_yaml(role / "defaults" / "main.yml")
    documented = {name: option.get("default") for name, option in specified(role).items()}
    assert {name: documented.get(name) for name in real} == real


def test_defaults_have_the_specified_type(role: Path) -> None:
    options = specified(role)
    wrong = {
        name: value
        for name, value in load_yaml(role / "defaults" / "main.yml").items()
        if value is not None and not has_type(value, options.get(name, {}).get("type", "str"))
    }
    assert not wrong


def test_every_variable_is_described_and_typed(role: Path) -> None:
    lacking = [
        name
        for name, option in specified(role).items()
        if not option.get("description") or not option.get("type")
    ]
    assert not lacking


def test_names_tell_public_from_internal(role: Path) -> None:
    assert [name for name in specified(role) if not name.startswith("mshare_")] == []
    internal = [
        name
        for path in (role / "vars").glob("*.yml")
        for name in load_yaml(path)
        if not name.startswith("__mshare_")
    ]
    assert not internal


def test_readme_has_the_table_of_the_specification(role: Path) -> None:
    sections = SECTION.findall((role / "README.md").read_text())
    assert sections, f"the README needs a place for its table:\n{BEGIN}\n{END}"
    assert sections == [table(role)], "run `make docs`"
