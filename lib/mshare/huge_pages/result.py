# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was, or in a check run would be, done to a host's huge pages: as records and as sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .. import record
from ..units import counted, format_size
from .need import Term
from .oracle import OracleFacts
from .spec import pool_text

LiveState = Literal["not asked", "as wanted", "differs", "put back", "partial"]
BootState = Literal["not asked", "as wanted", "differs", "incomplete"]


@dataclass(frozen=True)
class PoolFacts:
    """A pool that was asked for; counts of pages."""

    page_bytes: int
    node: int | None
    wanted: int
    before: int
    granted: int
    used: int
    formula: tuple[Term, ...]


@dataclass(frozen=True)
class Live:
    """The outcome for the running kernel."""

    asked: bool
    state: LiveState
    missing_pages: int = 0


@dataclass(frozen=True)
class BootFacts:
    """The outcome for the next boot."""

    asked: bool
    state: BootState
    files: tuple[str, ...] = ()
    kernel_command_line: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """The whole answer."""

    check: bool
    actions: tuple[str, ...]
    before: dict[str, object]
    """What changes, by what it is called; of files (by path) the lines."""
    after: dict[str, object]
    pools: tuple[PoolFacts, ...]
    live: Live
    boot: BootFacts
    oracle: tuple[OracleFacts, ...] = ()
    warnings: tuple[str, ...] = ()
    failure: str | None = None
    """Why it failed, where the kernel granted less than was asked for."""
    changed: bool = field(default=False)

    def to_dict(self) -> dict[str, object]:
        """For JSON and module results."""
        fields = record.to_fields(self)
        del fields["failure"]
        return {**fields, "summary": self.lines()}

    def lines(self) -> list[str]:
        """For people."""
        lines = [] if self.failure is None else [f"{self.failure}."]
        lines += [f"Would {action}." for action in self.actions] if self.check else []
        for pool in self.pools:
            lines += pool_lines(pool)
        lines += [f"At boot: {reason}." for reason in self.boot.reasons]
        lines += oracle_lines(self.oracle)
        if not lines:
            lines = [f"{_sentence(action)}." for action in self.actions] or ["Nothing to do."]
        return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def pool_lines(pool: PoolFacts) -> Iterable[str]:
    """What a pool has, and of which terms the figure that is wanted is the sum; one that was asked for is its
    own."""
    size = format_size(pool.granted * pool.page_bytes)
    name = pool_text(pool.page_bytes, pool.node)
    wanted = "as wanted" if pool.granted == pool.wanted else f"{pool.wanted:,} are wanted"
    used = f"{pool.used:,} of them in use or reserved"
    yield f"The {name} has {counted(pool.granted, 'page')} ({size}), {used}; {wanted}."
    if any(term.kind != "requested" for term in pool.formula):
        yield f"  The {counted(pool.wanted, 'page')} {'is' if pool.wanted == 1 else 'are'} the sum of:"
        yield from term_lines(pool.formula)


def term_lines(formula: Iterable[Term]) -> Iterable[str]:
    for term in formula:
        yield f"    {term.pages:>8,}  {term.what} ({term.kind}: {term.source})"


def oracle_lines(oracle: Iterable[OracleFacts]) -> Iterable[str]:
    """Of each Oracle instance whether it is done, and else what its administrator has to set."""
    for facts in oracle:
        state = "left alone" if facts.left_alone else "done" if facts.done else "not done"
        yield f"{facts.name}: {state}, {facts.reason}."
        if not facts.done:
            yield from (f"  {line}" for line in (*facts.sql, *facts.limits))
