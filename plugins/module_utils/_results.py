# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the library answers, in the form of a module's result.

Modules take the answers from the library, action plugins from its command line; both come through here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import ANSWERED
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError

Fields = dict[str, Any]

# Texts that YAML reads as they are. Everything else is quoted.
_PLAIN = re.compile(r"[A-Za-z/][\w./@%+-]*( [\w./@%+-]+)*")
# Of an answer: what becomes the diff, and what only the command line says.
_NOT_RETURNED = ("before", "after", "check", "schema_version")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))


def converged(answer: Fields, title: str) -> Fields:
    """The result for one thing that was brought about; `title` names it in the diff."""
    others = {key: value for key, value in answer.items() if key not in _NOT_RETURNED}
    pairs = diff(title, answer["before"], answer["after"])
    return {**others, "diff": pairs[0] if len(pairs) == 1 else pairs}


def remedied(answer: Fields) -> Fields:
    """The result for the remedies of a host: a pair of texts for each file, and one for the rest."""
    others = {key: value for key, value in answer.items() if key not in _NOT_RETURNED}
    pairs = diff("remedies", answer["before"], answer["after"]) if answer["changed"] else []
    return {**others, "diff": pairs}


def single(name: str, facts: str, region: str, answer: Fields) -> Fields:
    """The result for a single region. `name` and `facts` are what a module calls a region and its facts."""
    answer = _of_outcome(answer, facts)
    regions = [_entry(name, facts, region, answer)]
    return converged({**answer, "regions": regions}, _title(facts, region))


def several(name: str, facts: str, answers: Mapping[str, Fields]) -> Fields:
    """The result for several regions, by their names."""
    answers = {region: _of_outcome(answer, facts) for region, answer in answers.items()}
    warnings = (text for answer in answers.values() for text in answer["warnings"])
    return {
        "changed": any(answer["changed"] for answer in answers.values()),
        "actions": [action for answer in answers.values() for action in answer["actions"]],
        # Each sentence once.
        "warnings": list(dict.fromkeys(warnings)),
        "diff": [
            pair
            for region, answer in answers.items()
            for pair in diff(_title(facts, region), answer["before"], answer["after"])
        ],
        "regions": [_entry(name, facts, region, answer) for region, answer in answers.items()],
    }


def _of_outcome(answer: Fields, facts: str) -> Fields:
    """What `Outcome.to_dict` made, of an answer that may have more. MshareError where a field is missing."""
    missing = [name for name in (*ANSWERED, facts) if name not in answer]
    if missing:
        raise MshareError(f"the answer of mshare has no field {', '.join(missing)}")
    return {name: answer[name] for name in (*ANSWERED, facts)}


def _entry(name: str, facts: str, region: str, answer: Fields) -> Fields:
    return {name: region, **{key: answer[key] for key in ("changed", "actions", facts, "boot")}}


def _title(facts: str, region: str) -> str:
    return f"region {region}" if facts == "region" else f"{facts} of region {region}"


def diff(title: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, str]]:
    """The two sides as Ansible's --diff shows them: a pair of texts for each file, and one for the rest."""
    paths = sorted(key for key in {*before, *after} if key.startswith("/"))
    rest = [{key: value for key, value in side.items() if key not in paths} for side in (before, after)]
    pairs = [(path, _lines(before.get(path)), _lines(after.get(path))) for path in paths]
    if any(rest) or not pairs:
        pairs.insert(0, (title, readable(rest[0]), readable(rest[1])))
    return [
        {"before_header": header, "after_header": header, "before": old, "after": new}
        for header, old, new in pairs
    ]


def _lines(content: Any) -> str:
    """The text of a file, given as its lines; empty if the file is absent."""
    return "\n".join(content) if isinstance(content, list) else ""


def readable(fields: Fields) -> str:
    """Fields as YAML, a line each, and a line for each entry of a list.

    In one order: what was stored and what is wanted come in different orders.
    """
    lines = []
    for key, value in sorted(fields.items(), key=lambda field: (field[0] != "state", field[0])):
        if isinstance(value, list) and value:
            lines += [f"{key}:", *(f"  - {_scalar(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return "".join(f"{line}\n" for line in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
