# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One wish or many of a kind: all are looked at before the first of them changes anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .. import memory
from ..errors import InvalidRequest, MshareError, exit_code, kind, sentence
from .base import Outcome, one_at_a_time


class Wish(ABC):
    """Something that should be so on this host, for one region."""

    @property
    @abstractmethod
    def region(self) -> str:
        """The name of the region."""

    @abstractmethod
    def converge(self, check: bool) -> Outcome:
        """Look, decide, and, but for a check run, act. Who calls this has the turn (`one_at_a_time`)."""

    def require(self) -> None:
        """Raise for what is missing to act on this. A check run may come before the steps that provide it."""
        return


class Halted(MshareError):
    """One wish of many that could not be fulfilled; of the kind of its cause."""

    def __init__(self, message: str, cause: BaseException, done: dict[str, Outcome]) -> None:
        super().__init__(message)
        self.kind = kind(cause)
        self.exit_code = exit_code(cause)
        self.done = done
        """What had been done by then, by region."""


def fulfil(wish: Wish, *, check: bool = False) -> Outcome:
    """See to it that one wish is fulfilled; raises what is in its way."""
    with one_at_a_time(check):
        return wish.converge(check)


def fulfil_all(wishes: Sequence[Wish], *, check: bool = False) -> dict[str, Outcome]:
    """See to it that all are fulfilled, in their order; what each came to, by region.

    Every wish is judged before the first is acted upon, so that what is refused is refused with nothing
    changed. Raises Halted, which says where it stopped and what was done.
    """
    _require_distinct(wishes)
    with one_at_a_time(check):
        judged = _each(wishes, True, required=not check)
        fills_bytes: dict[str | None, dict[str, int]] = {}
        for name, outcome in judged.items():
            if outcome.fills_bytes:
                fills_bytes.setdefault(outcome.fills_root, {})[name] = outcome.fills_bytes
        memory.check_together(fills_bytes)
        return judged if check else _each(wishes, False)


def _each(wishes: Sequence[Wish], check: bool, required: bool = False) -> dict[str, Outcome]:
    done: dict[str, Outcome] = {}
    for number, wish in enumerate(wishes, 1):
        try:
            if required:
                wish.require()
            done[wish.region] = wish.converge(check)
        except (MshareError, OSError) as error:
            so_far = {} if check else done
            where = f"region {wish.region} ({number} of {len(wishes)})"
            raise Halted(f"{where}: {sentence(error)}; {_told(so_far)}", error, so_far) from error
    return done


def _told(done: dict[str, Outcome]) -> str:
    actions = [action for outcome in done.values() for action in outcome.actions]
    return "done before that: " + ", ".join(actions) if actions else "nothing was changed"


def _require_distinct(wishes: Sequence[Wish]) -> None:
    names = [wish.region for wish in wishes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(
            f"region {', '.join(twice)} is in the list more than once; say all of a region in one entry"
        )
