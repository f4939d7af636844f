# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation names is there: commands, options, variables, sentences, pages.

That its Python runs is checked in tests/unit/test_docs.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from checks.layout import ROOT, folders, load_yaml
from checks.sentences import one_line, sentences
from mshare.cli import mshare
from mshare.kernel.generations import GENERATIONS

DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT.glob("*.md")),
        *(DOCS.glob("*.md")),
        *(page for folder in ("examples", "roles", "tests") for page in ROOT.glob(f"{folder}/**/*.md")),
    ]
)
# What users copy, and what is run like that here.
COPIED = sorted(path for folder in ("examples", "extensions") for path in ROOT.glob(f"{folder}/**/*.yml"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Described once for all commands.
COMMON_OPTIONS = {"--backend", "--boot", "--check", "--help", "--json", "--no-boot", "--root", "--spec"}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=page_id)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def prose(page: Path) -> str:
    """A page without its blocks, in which # begins a comment and brackets are no links."""
    return BLOCK.sub("", page.read_text())


def sections(page: Path) -> dict[str, str]:
    """The text under each heading of the lowest kind, ###."""
    parts = re.split(r"^(##+) (.*)$", page.read_text(), flags=re.MULTILINE)[1:]
    triples = zip(parts[::3], parts[1::3], parts[2::3])
    return {title: text for level, title, text in triples if level == "###"}


def anchors(page: Path) -> set[str]:
    """The names under which GitHub finds a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(page))
    }


# -- links


def test_links_resolve(page: Path) -> None:
    lost = []
    for link in LINK.findall(prose(page)):
        path, __, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_the_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}
    assert [page.name for page in DOCS.glob("*.md") if page not in linked] == []


def test_the_readme_fits_a_terminal() -> None:
    """Of 80 columns; tables and links of other pages may be wider."""
    assert [line for line in (ROOT / "README.md").read_text().splitlines() if len(line) > 80] == []


# -- the command line


def commands(group: click.Group = mshare, above: str = "mshare") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name; groups are only a way there."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{above} {name}")
        elif command is not None:
            yield f"{above} {name}", command


def options(command: click.Command) -> set[str]:
    options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def test_the_trial_on_the_page_is_the_one_in_the_help() -> None:
    help_text = mshare.get_help(click.Context(mshare, info_name="mshare"))
    shown = [part for line in help_text.splitlines() for part in line.strip().split(" && ")]
    page = (DOCS / "command-line.md").read_text().partition("\n## ")[0]
    trial = BLOCK.findall(page)[-1][1].splitlines()
    assert trial[0] == "mshare mount"
    assert [line for line in trial if line not in shown] == []


def test_every_command_has_a_section() -> None:
    titles = [title.strip("`") for title in sections(DOCS / "command-line.md")]
    assert sorted(titles) == sorted(name for name, __ in commands())


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_options_of_a_command(name: str, command: click.Command) -> None:
    named = set(re.findall(r"--[a-z][a-z-]*", sections(DOCS / "command-line.md")[f"`{name}`"]))
    assert named - COMMON_OPTIONS == options(command) - COMMON_OPTIONS


def typed(page: Path) -> Iterator[list[str]]:
    """The command lines of ours in a page's blocks, without what they answer."""
    for language, block in BLOCK.findall(page.read_text()):
        for line in block.splitlines() if language in ("", "console", "sh") else ():
            for part in line.removeprefix("$ ").split(" && "):
                words = shlex.split(part, comments=True) if part.startswith("mshare ") else []
                if words:
                    # Where the output goes is the shell's.
                    yield words[1 : words.index(">") if ">" in words else None]


def test_commands_in_examples_are_understood(page: Path) -> None:
    for words in typed(page):
        command: click.Command = mshare
        context = click.Context(mshare)
        while isinstance(command, click.Group):
            inner = command.get_command(context, words[0])
            assert inner is not None, words
            command, words = inner, words[1:]
        command.make_context(command.name, list(words))


def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    code = [
        *re.findall(r"`([^`\n]+)`", prose(page)),
        *(line for __, b in BLOCK.findall(page.read_text()) for line in b.splitlines()),
    ]
    assert [
        line for line in code if (target := re.match(r"make ([a-z-]+)", line)) and target[1] not in known
    ] == []


# -- variables


def unknown_variables(text: str) -> set[str]:
    """Names that look like variables of ours and are none."""
    defaults = {name for role in folders("roles") for name in load_yaml(role / "defaults" / "main.yml")}
    playbooks = "".join(path.read_text() for path in (ROOT / "playbooks").glob("*.yml"))
    results = {f"mshare_{role.name}_result" for role in folders("roles")}
    tasks = [task for path in ROOT.glob("roles/*/tasks/*.yml") for task in load_yaml(path)]
    results |= {name for task in tasks for name in task.get("ansible.builtin.set_fact", ())}
    known = defaults | results | set(re.findall(r"\bmshare_[a-z_]+", playbooks))
    roles = "|".join(role.name for role in folders("roles"))
    return set(re.findall(rf"\bmshare_(?:{roles}|savings)_[a-z_]+", text)) - known


def test_variables_exist(page: Path) -> None:
    assert unknown_variables(page.read_text()) == set()


@pytest.mark.parametrize("path", COPIED, ids=page_id)
def test_variables_in_examples_exist(path: Path) -> None:
    assert unknown_variables(path.read_text()) == set()


# -- sentences and tables


def test_sentences_in_troubleshooting_are_said() -> None:
    texts = sentences()
    titles = [one_line(title) for title in sections(DOCS / "troubleshooting.md")]
    assert titles
    assert [title for title in titles if not any(title in sentence for sentence in texts)] == []


def test_table_of_generations() -> None:
    wanted = {
        (
            generation.id,
            features.size_set_by,
            ", ".join(features.mapping_kinds),
            *("yes" if on else "no" for on in (features.explicit_mappings, features.unmap)),
            "any" if features.any_address else "one for all",
            "owner" if features.owner_bound else "last use",
        )
        for generation in GENERATIONS.values()
        for features in [generation.features]
    }
    rows = re.findall(r"^\| (\d{4}-\d\d) \|(.*)\|$", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert {(name, *(cell.strip() for cell in cells.split("|"))) for name, cells in rows} == wanted
