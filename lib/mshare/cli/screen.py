# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command answers: to people as sentences and tables, to programs as JSON.

Commands give both, one after the other; the screen shows the one that was asked for.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

from .. import texttable
from ..printable import printable, printable_painted
from ..services.status_file import SCHEMA_VERSION
from .progress import Bar

# Colour never stands alone: the word is there without it.
_STYLES = {
    # word: colour, bold
    "healthy": ("green", False),
    "fine": ("green", False),
    "passed": ("green", False),
    "starting": ("yellow", False),
    "at risk": ("yellow", True),
    "stale": ("red", False),
    "missing": ("red", False),
    "failed": ("red", True),
    "will run out of memory at its maximum": ("red", True),
}


def paint(text: str, cell: str) -> str:
    if cell not in _STYLES:
        return text
    colour, bold = _STYLES[cell]
    return click.style(text, fg=colour, bold=bold)


def _bold(text: str) -> str:
    return click.style(text, bold=True)


class Screen:
    """Where a command's answer goes."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def width(self) -> int:
        """How many columns the terminal has."""
        if not sys.stdout.isatty():
            return texttable.WIDTH
        return shutil.get_terminal_size((texttable.WIDTH, 0)).columns

    def answer(self, fields: Mapping[str, object]) -> None:
        """The answer for programs."""
        if self.as_json:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2))

    def error(self, kind: str, message: str, exit_code: int) -> None:
        """The reason why there is no answer."""
        if self.as_json:
            self.answer({"error": {"kind": kind, "message": message, "exit_code": exit_code}})
        else:
            click.echo(f"Error: {printable(message)}", err=True)

    def sentence(self, text: str) -> None:
        """A sentence for people; on a terminal it is broken between words."""
        text = printable(text)
        broken = sys.stdout.isatty() and texttable.width_of(text) > self.width
        self.lines(texttable.wrapped(text, self.width, "  ") if broken else [text])

    @property
    def paint(self) -> texttable.Paint:
        """Colours for words that stand for a state."""
        return paint

    def clear(self) -> None:
        """Begin again at the top of the terminal; where there is none, a blank line."""
        if not self.as_json:
            click.echo("\x1b[H\x1b[2J\x1b[3J" if sys.stdout.isatty() else "", nl=not sys.stdout.isatty())

    def lines(self, lines: Iterable[str]) -> None:
        """Lines for people, with the colours they have; nothing else in them controls the terminal."""
        if not self.as_json:
            for line in lines:
                click.echo(printable_painted(line))

    def fields(self, entries: Iterable[tuple[str, str | None]]) -> None:
        """Names and values, one a line; a value of None is left out."""
        shown = [(name, value) for name, value in entries if value is not None]
        width = max((len(name) for name, __ in shown), default=0)
        room = self.width - width - 4 if sys.stdout.isatty() else sys.maxsize
        for name, value in shown:
            for number, line in enumerate(texttable.wrapped(printable(value), max(room, 1))):
                self.lines([f"  {'' if number else name:<{width}}  {line}"])

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
        """A table; the columns named in `right` hold figures."""
        if not self.as_json:
            for line in texttable.table(heads, rows, right, self.width, paint, _bold):
                click.echo(line)

    def warn(self, text: str) -> None:
        """What may do harm later."""
        if not self.as_json:
            click.echo(f"Warning: {printable(text)}", err=True)

    def note(self, text: str) -> None:
        """Progress, for a user at a terminal."""
        if sys.stderr.isatty() and not self.as_json:
            click.echo(printable(text), err=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Bar]:
        """A bar, on a terminal, for what takes longer than a moment."""
        shown = Bar(what, shown=sys.stderr.isatty() and not self.as_json)
        try:
            yield shown
        finally:
            shown.end()
