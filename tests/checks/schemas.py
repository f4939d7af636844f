# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The published JSON schemas of `mshare survey --json` and `mshare plan --json`, written from the records."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from checks.layout import ROOT
from mshare.monitoring.figures import Answer
from mshare.plan.plan import Plan

PUBLISHED = {"survey": Answer, "plan": Plan}
_SCALARS = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def path(name: str) -> Path:
    return ROOT / "docs" / "reference" / f"{name}.schema.json"


def text(name: str) -> str:
    """The schema of a command's answer, as its file has it."""
    definitions: dict[str, Any] = {}
    top = _reference(PUBLISHED[name], definitions)
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mshare {name} --json",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }
    return json.dumps(document, indent=2) + "\n"


def differences() -> list[str]:
    """One sentence per schema that is not what the records say."""
    return [
        f"{path(name).relative_to(ROOT)} is not what the records say; run `make docs`"
        for name in PUBLISHED
        if not path(name).exists() or path(name).read_text(encoding="utf-8") != text(name)
    ]


def write() -> None:
    for name in PUBLISHED:
        path(name).write_text(text(name), encoding="utf-8")


def _reference(record: type, definitions: dict[str, Any]) -> dict[str, Any]:
    name = record.__name__
    if name not in definitions:
        definitions[name] = {}
        properties = {
            each.name: _schema(
                ast.parse(str(each.type), mode="eval").body, _names(record, each.name), definitions
            )
            for each in fields(record)
        }
        for field, schema in properties.items():
            if field.endswith("_bytes") and schema == {"type": "integer"} and field != "saving_bytes":
                schema["minimum"] = 0
        definitions[name] = {
            "type": "object",
            "description": (record.__doc__ or "").split("\n")[0],
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _names(record: type, field: str) -> dict[str, Any]:
    """What the annotation of a field may name: that of the class which has it, perhaps an inherited one."""
    owner = next(each for each in record.__mro__ if field in vars(each).get("__annotations__", {}))
    return vars(sys.modules[owner.__module__])


def _schema(node: ast.expr, names: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(node, ast.BinOp):
        return {"anyOf": [_schema(node.left, names, definitions), {"type": "null"}]}
    if isinstance(node, ast.Subscript):
        kind = ast.unparse(node.value)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if kind == "Literal":
            return {"enum": [ast.literal_eval(item) for item in items]}
        if kind == "tuple":
            return {"type": "array", "items": _schema(items[0], names, definitions)}
        assert kind == "dict", ast.unparse(node)
        return {"type": "object", "additionalProperties": _schema(items[1], names, definitions)}
    word = ast.unparse(node)
    if word in _SCALARS:
        return {"type": _SCALARS[word]}
    assert is_dataclass(names[word]), word
    return _reference(names[word], definitions)


if __name__ == "__main__":
    write()
