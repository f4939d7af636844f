# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that bring something about: for one thing, for one region, or for each region of a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.dbmem.mshare.plugins.module_utils import _results
from ansible_collections.dbmem.mshare.plugins.module_utils._module import end, fail
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.request import (
    Halted,
    Request,
    apply,
    apply_all,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def report(module: AnsibleModule, outcome: Outcome[Any], title: str, **results: Any) -> NoReturn:
    """End the module with what was, or in check mode would be, done to what `title` names in the diff."""
    answer = outcome.to_dict("facts")
    del answer["facts"]
    end(module, _results.converged({**answer, **results}, title))


def one_or_many(name: str, many: str, each: dict[str, Any]) -> dict[str, Any]:
    """The options of a module for one region, and of the list whose entries have the same ones."""
    # Without defaults: what an entry leaves out is taken from the module's own options.
    suboptions = {
        option: {key: value for key, value in meaning.items() if key != "default"}
        for option, meaning in each.items()
    }
    return {
        name: {"type": "str"},
        many: {
            "type": "list",
            "elements": "dict",
            "options": {name: {"type": "str", "required": True}, **suboptions},
        },
        **each,
    }


def either(name: str, many: str) -> dict[str, Any]:
    """What AnsibleModule is told of the two: exactly one of them is given."""
    return {"mutually_exclusive": [(name, many)], "required_one_of": [(name, many)]}


def entries(
    params: dict[str, Any], name: str, many: str, alternatives: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What is wanted of each region: the parameters, overridden by the list's entries one by one.

    `alternatives` are options that exclude each other: an entry that gives one of them takes none of the others.
    """
    if params[many] is None:
        return [params]
    return [merged(params, entry, alternatives) for entry in params[many]]


def merged(params: dict[str, Any], entry: dict[str, Any], alternatives: tuple[str, ...]) -> dict[str, Any]:
    """What is wanted of one region of a list; see `entries`."""
    given = {key: value for key, value in entry.items() if value is not None}
    others = dict.fromkeys(alternatives) if given.keys() & set(alternatives) else {}
    return {**params, **others, **given}


def converge(
    module: AnsibleModule, name: str, facts: str, requests: Callable[[], list[Request[Any]]]
) -> NoReturn:
    """Bring about what is wanted of one region (`name` is given) or of several, and end the module.

    `name` and `facts` are what a region's name and its facts are called in the results.
    """
    try:
        if module.params[name] is None:
            outcomes = apply_all(requests(), check=module.check_mode)
            results = _results.several(name, facts, _answers(facts, outcomes))
        else:
            (request,) = requests()
            outcome = apply(request, check=module.check_mode)
            results = _results.single(name, facts, request.region, outcome.to_dict(facts))
    except Halted as halted:
        results = _results.several(name, facts, _answers(facts, halted.done))
        module.fail_json(msg=str(halted), error_kind=halted.kind, **results)
    except (MshareError, OSError) as error:
        fail(module, error)
    end(module, results)


def _answers(facts: str, outcomes: Mapping[str, Outcome[Any]]) -> dict[str, dict[str, Any]]:
    return {region: outcome.to_dict(facts) for region, outcome in outcomes.items()}
