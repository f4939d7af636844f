# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of variables in the roles' READMEs, written from meta/argument_specs.yml.

A README says where its table stands with two comments; what is between them is generated.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from checks.layout import folders, load_yaml

BEGIN = "<!-- variables: written by `make docs` from meta/argument_specs.yml -->"
END = "<!-- end of variables -->"
SECTION = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)

# Ansible's markup: V(present), O(mshare_region_size), M(dbmem.mshare.mshare_info), B(bold),
# L(text,url), U(url).
MARKUP = [
    (re.compile(r"\b[VOECP]\(([^()]*)\)"), r"`\1`"),
    (re.compile(r"\bM\(([^()]*)\)"), r"`\1`"),
    (re.compile(r"\b[BI]\(([^()]*)\)"), r"*\1*"),
    (re.compile(r"\bL\(([^(),]*),\s*([^()]*)\)"), r"[\1](\2)"),
    (re.compile(r"\bU\(([^()]*)\)"), r"<\1>"),
]


def plain(description: str | list[str]) -> str:
    """A description as one line of Markdown."""
    text = " ".join([description] if isinstance(description, str) else description)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).replace("|", "\\|")


def type_cell(option: dict[str, Any]) -> str:
    kind = option.get("type", "str")
    return f"list of {option['elements']}" if "elements" in option else kind


def default_cell(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "*required*"
    if option.get("default") is None:
        return "—"
    default = option["default"]
    return f"`{default if isinstance(default, str) and default else json.dumps(default)}`"


def description_cell(option: dict[str, Any]) -> str:
    text = plain(option["description"])
    if "choices" in option:
        text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
    return text


def row(name: str, option: dict[str, Any]) -> str:
    cells = [f"`{name}`", type_cell(option), default_cell(option), description_cell(option)]
    return f"| {' | '.join(cells)} |"


def table(role: Path) -> str:
    """The generated section of a role's README, comments included."""
    specs = load_yaml(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    options: dict[str, Any] = {}
    for entry_point in specs.values():
        options.update(entry_point.get("options", {}))
    head = ["| Variable | Type | Default | What it does |", "|---|---|---|---|"]
    rows = [row(name, option) for name, option in options.items()]
    return "\n".join([BEGIN, *head, *rows, END])


def main() -> None:
    for role in folders("roles"):
        readme = role / "README.md"
        text = readme.read_text() if readme.exists() else f"# {role.name}\n\n{BEGIN}\n{END}\n"
        if not SECTION.search(text):
            sys.exit(f"{readme} has no place for its table; add the two lines\n{BEGIN}\n{END}")
        readme.write_text(SECTION.sub(lambda _match, role=role: table(role), text))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: make docs")
    main()
