# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules for Prometheus as the role alerts writes them.

`python -m checks.alerts --write` writes them with the role's defaults into roles/alerts/files, for users to
copy.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jinja2
import yaml

from checks.layout import ROOT, load_yaml

ROLE = ROOT / "roles" / "alerts"
TEMPLATE = ROLE / "templates" / "mshare.rules.yml.j2"
SHIPPED = ROLE / "files" / "mshare.rules.yml"
_OPTIONS_START = "#jinja2:"


def rendered(**variables: Any) -> str:
    """The rules with the role's defaults, but for some variables, named without their prefix.

    The first line has the options of Ansible's template module. tests/integration/test_alerts.py has Ansible
    itself write the file, and compares.
    """
    options, __, text = TEMPLATE.read_text().partition("\n")
    assert options.startswith(_OPTIONS_START)
    words = (word.strip().partition(":") for word in options[len(_OPTIONS_START) :].split(","))
    environment = jinja2.Environment(
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        **{name: yaml.safe_load(value) for name, __, value in words},
    )
    environment.filters["to_json"] = json.dumps
    defaults = load_yaml(ROLE / "defaults" / "main.yml")
    given = {f"mshare_alerts_{name}": value for name, value in variables.items()}
    assert given.keys() <= defaults.keys()
    return environment.from_string(text).render({**defaults, **given})


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of a kind, "alert" or "record", as shipped."""
    groups = load_yaml(SHIPPED)["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: make docs")
    SHIPPED.write_text(rendered())
