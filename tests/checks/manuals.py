# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual pages in lib/mshare/man, written from what click knows of each command."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import click

from checks.layout import ROOT
from mshare import __version__
from mshare.cli.program import mshare

FOLDER = ROOT / "lib" / "mshare" / "man"
_HEAD = """\
.\\" Copyright: dbmem.mshare contributors
.\\" GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
.\\" SPDX-License-Identifier: GPL-3.0-or-later
.\\" Written by `make links` from the definitions of the command line.
"""
_CODE = re.compile(r"`([^`]+)`")


def pages() -> dict[str, str]:
    """File name -> text, of the program and of each of its commands."""
    found = {"mshare.1": _page(("mshare",), mshare)}
    for names, command in _commands(mshare, ("mshare",)):
        found["-".join(names) + ".1"] = _page(names, command)
    return found


def differences() -> list[str]:
    """One sentence per page that is missing, stale or of no command."""
    wanted = pages()
    actual = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.1")}
    return [
        f"lib/mshare/man/{name} is not what the command line says; run `make links`"
        for name in sorted({*wanted, *actual})
        if wanted.get(name) != actual.get(name)
    ]


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.1"):
        path.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _commands(group: click.Group, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*above, name))


def _page(names: tuple[str, ...], command: click.Command) -> str:
    title = "-".join(names)
    first, *rest = _paragraphs(inspect.cleandoc(command.help or ""))
    summary = " ".join(first).rstrip(".")
    lines = [
        f'.TH {_plain(title.upper())} 1 "" "mshare {__version__}" "User Commands"',
        ".SH NAME",
        f"{_plain(title)} \\- {_plain(summary[:1].lower() + summary[1:])}",
        ".SH SYNOPSIS",
        f".B {_plain(' '.join(names))}",
        _plain(" ".join(command.collect_usage_pieces(click.Context(command)))),
    ]
    if rest:
        lines.append(".SH DESCRIPTION")
        for paragraph in rest:
            lines += [".PP", *_paragraph(paragraph)]
    options = [line for parameter in command.params for line in _option(parameter)]
    if options:
        lines += [".SH OPTIONS", *options]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inside, each in _commands(command, names):
            if len(inside) == len(names) + 1:
                brief = _paragraphs(inspect.cleandoc(each.help or ""))[0]
                lines += [".TP", f".BR {_plain('-'.join(inside))} (1)", *_paragraph(brief)]
    if command.epilog:
        for paragraph in _paragraphs(inspect.cleandoc(command.epilog)):
            lines += [".PP", *_paragraph(paragraph)]
    if len(names) > 1:
        lines += [".SH SEE ALSO", f".BR {_plain('-'.join(names[:-1]))} (1)"]
    return _HEAD + "\n".join(lines) + "\n"


def _option(parameter: click.Parameter) -> list[str]:
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return []
    names = ", ".join(f"\\fB{_plain(name)}\\fR" for name in (*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag or parameter.count else f" \\fI{_plain(_value(parameter))}\\fR"
    help_lines = [_inline(parameter.help or "")]
    if parameter.show_default:
        help_lines.append(f"Default: {_plain(str(parameter.default))}.")
    return [".TP", names + value, *help_lines]


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.type.name.upper()


def _paragraphs(text: str) -> list[list[str]]:
    """Paragraphs of lines; one that click is not to fill begins with its mark, \\b."""
    return [block.split("\n") for block in text.split("\n\n") if block.strip()]


def _paragraph(lines: list[str]) -> list[str]:
    if lines[0].strip() == "\b":
        return [".nf", *map(_inline, lines[1:]), ".fi"]
    return [_inline(" ".join(lines))]


def _inline(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(
        f"\\fB{_plain(part)}\\fR" if number % 2 else _plain(part) for number, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    """Text as roff has it: no escape, and no line that would be a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        raise SystemExit("\n".join(differences()) or 0)
