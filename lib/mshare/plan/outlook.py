# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an instance, and the host, survives its own maximum, and the one thing to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ..labels import Kind, weakest
from ..survey.record import Limit
from ..units import MIB, format_size
from .facts import Facts, Host, Instance

_AT_RISK = 0.5
"""Of the memory that is available, what page tables may grow by before that is a risk."""
_WORTH_BYTES = MIB
"""A remedy that saves less is not worth a restart."""
_MATTERS = 0.01
"""Of the RAM: where memory suffices anyway, a remedy that saves less is optional."""
_ENOUGH = 0.5
"""Remedies that save at least this share of the best remedy compete; the first in _ORDER is taken."""
_ORDER = (
    "hugetlb_2m",
    "preload_hugetlb",
    "preload_thp",
    "collapse",
    "hugetlb_1g",
    "thp_shmem",
    "mshare",
    "pooling",
)
Verdict = Literal["fine", "at_risk", "will_run_out"]
_WORDS: dict[Verdict, str] = {
    "fine": "fine",
    "at_risk": "at risk",
    "will_run_out": "will run out of memory at its maximum",
}


class Candidate(Protocol):
    """What a row of the plan tells about its remedy."""

    @property
    def id(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def usable(self) -> bool: ...
    @property
    def saving_bytes(self) -> int: ...
    @property
    def waste_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def restart(self) -> str: ...
    @property
    def reboot(self) -> str: ...
    @property
    def takes(self) -> str: ...
    @property
    def command(self) -> str | None: ...
    @property
    def confidence(self) -> Kind: ...


@dataclass(frozen=True)
class Outlook:
    """The verdict on an instance or on the host, in words and figures."""

    verdict: Literal["fine", "at_risk", "will_run_out"]
    words: str
    """The verdict in words."""
    sentence: str
    today_bytes: int | None
    at_maximum_bytes: int
    at_maximum_kind: Literal["measured", "modelled", "projected"]
    available_bytes: int | None
    """Memory that is left for page tables to grow into; None where it is not known."""
    limit: str | None
    """The file with the cgroup limit that leaves less than the host's memory does, where there is one."""
    done: str | None
    """Why nothing is left to do, where it is so."""
    optional: bool
    """Whether the remedy is: memory suffices without it, and it saves little of the RAM."""
    remedy_id: str | None
    remedy: str | None
    command: str | None
    saving_bytes: int
    saving_kind: Literal["measured", "modelled", "projected"] | None
    costs: str | None
    needs: str | None


def of_instance(
    facts: Facts,
    instance: Instance,
    at_bytes: int,
    kind: Kind,
    rows: Sequence[Candidate],
    needed: bool = False,
) -> Outlook:
    """The verdict on one instance and the one remedy to take; `needed` if the host needs it in any case."""
    room = _room(facts.host, [(instance, at_bytes)])
    best = None if instance.done else _picked(rows)
    nothing = instance.done or (
        None if best else "none of the open remedies saves enough to be worth a change"
    )
    sentence = _sentence(instance.name, room, instance.tables_bytes, instance.tables_kind, at_bytes, kind)
    suffices = room.verdict == "fine" and not needed
    optional = suffices and best is not None and not _matters(facts.host, best.saving_bytes)
    if nothing:
        sentence += f" Nothing to do: {nothing}."
    elif optional and best is not None:
        saving = format_size(best.saving_bytes)
        sentence += f" Nothing to do: the best remedy saves {saving}, which is less than 1 % of the RAM."
    return Outlook(
        verdict=room.verdict,
        words=_WORDS[room.verdict],
        sentence=sentence,
        today_bytes=instance.tables_bytes,
        at_maximum_bytes=at_bytes,
        at_maximum_kind=kind,
        available_bytes=room.available_bytes,
        limit=room.limit,
        done=nothing,
        optional=optional,
        remedy_id=best.id if best else None,
        remedy=best.remedy if best else None,
        command=best.command if best else None,
        saving_bytes=best.saving_bytes if best else 0,
        saving_kind=best.confidence if best else None,
        costs=_costs(best) if best else None,
        needs=best.takes if best else None,
    )


def needed(facts: Facts, outlooks: Sequence[Outlook]) -> list[bool]:
    """Which of the optional remedies the host needs all the same: where its memory does not suffice for all
    instances at their maxima with the remedies that are not optional, and is better off with all of them.

    `outlooks` are those of the facts' instances, in their order.
    """
    optional = [outlook.saving_bytes for outlook in outlooks if outlook.optional]
    pairs = list(zip(facts.instances, outlooks))
    without = [(one, each.at_maximum_bytes - (not each.optional) * each.saving_bytes) for one, each in pairs]
    with_all = [(one, each.at_maximum_bytes - each.saving_bytes) for one, each in pairs]
    ranks = list(_WORDS)
    better = ranks.index(_room(facts.host, with_all).verdict) < ranks.index(
        _room(facts.host, without).verdict
    )
    if not optional or not better:
        return [False] * len(outlooks)
    # One that saves next to nothing beside the others is no help.
    least_bytes = sum(optional) / (2 * len(optional))
    return [outlook.optional and outlook.saving_bytes >= least_bytes for outlook in outlooks]


def of_host(facts: Facts, outlooks: Sequence[Outlook]) -> Outlook:
    """All instances at their maxima at once, on the memory that is available to all of them.

    `outlooks` are those of the facts' instances, in their order.
    """
    at_bytes = sum(outlook.at_maximum_bytes for outlook in outlooks)
    today_bytes = sum(outlook.today_bytes or 0 for outlook in outlooks) if facts.host.surveyed else None
    kind = weakest(*(outlook.at_maximum_kind for outlook in outlooks)) if outlooks else "measured"
    today_kind = weakest("measured", *(instance.tables_kind for instance in facts.instances))
    room = _room(
        facts.host,
        [(instance, outlook.at_maximum_bytes) for instance, outlook in zip(facts.instances, outlooks)],
    )
    # What an instance does not survive, its host does not either.
    verdicts = [room.verdict, *(outlook.verdict for outlook in outlooks)]
    room = replace(room, verdict=max(verdicts, key=list(_WORDS).index))
    worst = max(
        (outlook for outlook in outlooks if outlook.remedy_id),
        key=lambda outlook: (not outlook.optional, outlook.saving_bytes),
        default=None,
    )
    name = facts.host.name or "the host"
    return Outlook(
        verdict=room.verdict,
        words=_WORDS[room.verdict],
        sentence=_sentence(name, room, today_bytes, today_kind, at_bytes, kind),
        today_bytes=today_bytes,
        at_maximum_bytes=at_bytes,
        at_maximum_kind=kind,
        available_bytes=room.available_bytes,
        limit=room.limit,
        done=None if worst else "none of the open remedies saves enough to be worth a change",
        optional=worst is not None and worst.optional,
        remedy_id=worst.remedy_id if worst else None,
        remedy=worst.remedy if worst else None,
        command=worst.command if worst else None,
        saving_bytes=sum(outlook.saving_bytes for outlook in outlooks),
        saving_kind=worst.saving_kind if worst else None,
        costs=worst.costs if worst else None,
        needs=worst.needs if worst else None,
    )


def _matters(host: Host, saving_bytes: int) -> bool:
    return host.memory_total_bytes is None or saving_bytes >= _MATTERS * host.memory_total_bytes


@dataclass(frozen=True)
class _Room:
    """What page tables can grow into, where that is the least: on the host, or below a cgroup's limit."""

    verdict: Verdict
    available_bytes: int | None
    limit: str | None = None
    of: str = ""
    """The instances that the limit is for."""

    @property
    def text(self) -> str:
        if self.available_bytes is None:
            return ""
        left = f", {format_size(self.available_bytes)}"
        return f"{left} left by {self.limit}{self.of}" if self.limit else f"{left} memory available"


def _room(host: Host, growing: Sequence[tuple[Instance, int]]) -> _Room:
    """For instances that grow together, each to so many bytes of page tables."""
    available_bytes = host.memory_available_bytes
    if not host.surveyed and host.memory_total_bytes is not None:
        memory_bytes = sum(instance.size_bytes for instance, __ in growing)
        available_bytes = max(0, host.memory_total_bytes - memory_bytes)
    rooms = [_Room(_verdict(_growth(growing), available_bytes), available_bytes)]
    below: dict[Limit, list[tuple[Instance, int]]] = {}
    for instance, at_bytes in growing:
        for limit in instance.limits:
            if limit.resource == "memory":
                below.setdefault(limit, []).append((instance, at_bytes))
    for limit, members in below.items():
        left_bytes = _left(limit, [instance for instance, __ in members])
        names = "" if len(growing) == 1 else f" for {', '.join(instance.name for instance, __ in members)}"
        rooms.append(_Room(_verdict(_growth(members), left_bytes), left_bytes, limit.file, names))
    ranks = list(_WORDS)
    return max(rooms, key=lambda room: (ranks.index(room.verdict), -(room.available_bytes or 0)))


def _left(limit: Limit, instances: Iterable[Instance]) -> int:
    """What a cgroup's limit leaves: as its use tells, else what the instances in it have not taken."""
    if limit.available_bytes is not None:
        return limit.available_bytes
    # Page tables are charged to the cgroup as its memory is; huge pages of a pool are not.
    used_bytes = sum(
        (instance.tables_bytes or 0)
        + sum(segment.size_bytes for segment in instance.segments if segment.kind != "hugetlb")
        for instance in instances
    )
    return max(0, limit.limit_bytes - used_bytes)


def _growth(growing: Iterable[tuple[Instance, int]]) -> int:
    return sum(at_bytes - (instance.tables_bytes or 0) for instance, at_bytes in growing)


def _verdict(grown_bytes: int, available_bytes: int | None) -> Verdict:
    if available_bytes is None or grown_bytes <= _AT_RISK * available_bytes:
        return "fine"
    return "at_risk" if grown_bytes <= available_bytes else "will_run_out"


def _sentence(
    name: str, room: _Room, today_bytes: int | None, today_kind: Kind, at_bytes: int, kind: Kind
) -> str:
    now = "" if today_bytes is None else f"{format_size(today_bytes)} now ({today_kind}), "
    at_maximum = f"{format_size(at_bytes)} at the maximum ({kind})"
    return f"{name}: {_WORDS[room.verdict]}: page tables {now}{at_maximum}{room.text}."


def _picked(rows: Iterable[Candidate]) -> Candidate | None:
    """The first in _ORDER of those that save about as much as the best."""
    usable = {
        row.id.partition("_2")[0] if row.id.startswith("mshare") else row.id: row
        for row in rows
        if row.usable
    }
    most_bytes = max((row.saving_bytes for row in usable.values()), default=0)
    if most_bytes < _WORTH_BYTES:
        return None
    enough = (usable[name] for name in _ORDER if name in usable)
    return next((row for row in enough if row.saving_bytes >= _ENOUGH * most_bytes), None)


def _costs(row: Candidate) -> str:
    """What a remedy costs: restarts, reboots, and memory."""
    restarts = {"yes": "a restart", "no": "no restart", "clients": "clients reconnect"}
    reboots = {
        "no": "no reboot",
        "rarely": "rarely a reboot",
        "usually": "usually a reboot",
        "yes": "a reboot",
    }
    parts = [restarts[row.restart], reboots[row.reboot]]
    if row.waste_bytes:
        parts.append(f"{format_size(row.waste_bytes)} of rounding")
    return ", ".join(parts)
