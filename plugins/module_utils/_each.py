# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that take one region or a list of them: their options, what each entry means, their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ansible_collections.dbmem.mshare.plugins.module_utils._module import fail
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.request import (
    Halted,
    Request,
    apply,
    apply_all,
)
from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.errors import MshareError

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.dbmem.mshare.plugins.module_utils.mshare.converge.outcome import Outcome


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

    `alternatives` are options of which a region has one: an entry that gives one takes none of the others.
    """
    if params[many] is None:
        return [params]
    return [merged(params, entry, alternatives) for entry in params[many]]


def merged(params: dict[str, Any], entry: dict[str, Any], alternatives: tuple[str, ...]) -> dict[str, Any]:
    """What is wanted of one region of a list; see `entries`."""
    given = {key: value for key, value in entry.items() if value is not None}
    others = dict.fromkeys(alternatives) if given.keys() & set(alternatives) else {}
    return {**params, **others, **given}


def converge(module: AnsibleModule, name: str, facts: str, requests: Callable[[], list[Request]]) -> NoReturn:
    """Bring about what is wanted of one region (`name` is given) or of several, and end the module.

    `name` and `facts` are what a region's name and its facts are called in the results.
    """
    try:
        if module.params[name] is None:
            outcomes = apply_all(requests(), check=module.check_mode)
        else:
            (request,) = requests()
            outcomes = {request.region: apply(request, check=module.check_mode)}
    except Halted as halted:
        module.fail_json(msg=str(halted), error_kind=halted.kind, **_joined(name, facts, halted.done))
    except (MshareError, OSError) as error:
        fail(module, error)
    for sentence in warnings(outcomes):
        module.warn(sentence)
    module.exit_json(**results(name, facts, outcomes, many=module.params[name] is None))


def warnings(outcomes: dict[str, Outcome]) -> list[str]:
    """What is to be warned of, each sentence once."""
    return list(dict.fromkeys(text for outcome in outcomes.values() for text in outcome.warnings))


def results(name: str, facts: str, outcomes: dict[str, Outcome], *, many: bool) -> dict[str, Any]:
    """What is returned of one region, or of several."""
    joined = _joined(name, facts, outcomes)
    if many:
        return joined
    (outcome,) = outcomes.values()
    return {
        **joined,
        facts: outcome.answer(),
        "boot": outcome.boot,
        "diff": {"before": outcome.before, "after": outcome.after},
    }


def _joined(name: str, facts: str, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """What came of several regions, as one result."""
    return {
        "changed": any(outcome.changed for outcome in outcomes.values()),
        "actions": [action for outcome in outcomes.values() for action in outcome.actions],
        "diff": {
            "before": {region: outcome.before for region, outcome in outcomes.items()},
            "after": {region: outcome.after for region, outcome in outcomes.items()},
        },
        "regions": [
            {
                name: region,
                "changed": outcome.changed,
                "actions": outcome.actions,
                facts: outcome.answer(),
                "boot": outcome.boot,
            }
            for region, outcome in outcomes.items()
        ],
    }
