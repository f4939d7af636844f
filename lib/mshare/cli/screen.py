# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a command says: to people as sentences and tables, to programs as JSON.

Commands say both, one after the other; the screen shows the one that was asked for. rich is imported
when something is drawn, for it takes longer than many a command.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

from ..services.status_file import SCHEMA_VERSION
from .progress import Bar

# Wide enough for anything we say: a row is never cut, and a narrow terminal folds it by itself.
_COLUMNS = 10_000
_STYLES = {
    "healthy": "green",
    "starting": "yellow",
    "stale": "red",
    "missing": "red",
}


class Screen:
    """Where a command's answer goes."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, fields: Mapping[str, object]) -> None:
        """The answer for programs."""
        if self.as_json:
            click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2))

    def error(self, kind: str, message: str, exit_code: int) -> None:
        """The reason why there is no answer."""
        if self.as_json:
            self.answer({"error": {"kind": kind, "message": message, "exit_code": exit_code}})
        else:
            click.echo(f"Error: {message}", err=True)

    def say(self, text: str) -> None:
        """A sentence for people."""
        if not self.as_json:
            click.echo(text)

    def fields(self, entries: Iterable[tuple[str, str | None]]) -> None:
        """Names and values, one a line; a value of None is left out."""
        shown = [(name, value) for name, value in entries if value is not None]
        width = max((len(name) for name, __ in shown), default=0)
        for name, value in shown:
            self.say(f"  {name:<{width}}  {value}")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
        """A table; the columns named in `right` hold figures."""
        if self.as_json:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in heads:
            table.add_column(head, justify="right" if head in right else "left")
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        console = Console(width=_COLUMNS, highlight=False, markup=False, emoji=False)
        with console.capture() as capture:
            console.print(table)
        click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))

    def warn(self, text: str) -> None:
        """What may do harm later."""
        if not self.as_json:
            click.echo(f"Warning: {text}", err=True)

    def note(self, text: str) -> None:
        """What goes on meanwhile, for somebody who sits before a terminal."""
        if sys.stderr.isatty() and not self.as_json:
            click.echo(text, err=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Bar]:
        """A bar, on a terminal, for what takes longer than a moment."""
        shown = Bar(what, shown=sys.stderr.isatty() and not self.as_json)
        try:
            yield shown
        finally:
            shown.end()
