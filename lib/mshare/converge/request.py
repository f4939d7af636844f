# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request or many of a kind: all are checked before the first of them changes anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic

from ..errors import InvalidRequest, MshareError, exit_code, kind, sentence
from . import memory, processes
from .outcome import Facts_co, Outcome, one_at_a_time


class Request(ABC, Generic[Facts_co]):
    """Something that should be so on this host, for one region."""

    @property
    @abstractmethod
    def region(self) -> str:
        """The name of the region."""

    @abstractmethod
    def converge(self, check: bool) -> Outcome[Facts_co]:
        """Look, decide, and, but for a check run, act. Who calls this has the turn (`one_at_a_time`)."""

    def require(self) -> None:
        """Raise for what is missing to act on this. A check run may come before the steps that provide it."""
        return


class Halted(MshareError):
    """One request of many that could not be applied; of the kind of its cause."""

    def __init__(self, message: str, cause: BaseException, done: Mapping[str, Outcome[Facts_co]]) -> None:
        super().__init__(message)
        self.kind = kind(cause)
        self.exit_code = exit_code(cause)
        self.done: Mapping[str, Outcome[object]] = done
        """What had been done by then, by region."""


def apply(request: Request[Facts_co], *, check: bool = False) -> Outcome[Facts_co]:
    """Apply a request; raises what prevents it."""
    with one_at_a_time(check):
        return request.converge(check)


def apply_all(requests: Sequence[Request[Facts_co]], *, check: bool = False) -> dict[str, Outcome[Facts_co]]:
    """See to it that all are applied, in their order; what each came to, by region.

    Every request is judged before the first is acted upon, so that what is refused is refused with nothing
    changed. Raises Halted, which says where it stopped and what was done.
    """
    _require_distinct(requests)
    with one_at_a_time(check):
        judged = _each(requests, True, required=not check)
        fills_bytes: dict[str | None, dict[str, int]] = {}
        for name, outcome in judged.items():
            if outcome.fills_bytes:
                fills_bytes.setdefault(outcome.fills_root, {})[name] = outcome.fills_bytes
        memory.check_together(fills_bytes)
        processes.check([outcome.starts for outcome in judged.values() if outcome.starts is not None])
        return judged if check else _each(requests, False)


def _each(
    requests: Sequence[Request[Facts_co]], check: bool, required: bool = False
) -> dict[str, Outcome[Facts_co]]:
    done: dict[str, Outcome[Facts_co]] = {}
    for number, request in enumerate(requests, 1):
        try:
            if required:
                request.require()
            done[request.region] = request.converge(check)
        except (MshareError, OSError) as error:
            so_far = {} if check else done
            where = f"region {request.region} ({number} of {len(requests)})"
            raise Halted(f"{where}: {sentence(error)}; {_done_text(so_far)}", error, so_far) from error
    return done


def _done_text(done: Mapping[str, Outcome[Facts_co]]) -> str:
    actions = [action for outcome in done.values() for action in outcome.actions]
    return "done before that: " + ", ".join(actions) if actions else "nothing was changed"


def _require_distinct(requests: Sequence[Request[Facts_co]]) -> None:
    names = [request.region for request in requests]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(
            f"region {', '.join(twice)} is in the list more than once; use one entry per region"
        )
