# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an instance, and the host, survives its own maximum, and the one thing to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..labels import Kind, weakest
from ..units import MIB, format_size
from .facts import Facts, Host, Instance

_AT_RISK = 0.5
"""Of the memory that is available, what page tables may grow by before that is a risk."""
_WORTH_BYTES = MIB
"""A remedy that saves less is not worth a restart."""
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
_WORDS = {
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
    done: str | None
    """Why nothing is left to do, where it is so."""
    remedy_id: str | None
    remedy: str | None
    command: str | None
    saving_bytes: int
    saving_kind: Literal["measured", "modelled", "projected"] | None
    costs: str | None
    needs: str | None


def of_instance(
    facts: Facts, instance: Instance, at_bytes: int, kind: Kind, rows: Sequence[Candidate]
) -> Outlook:
    """The verdict on one instance and the one remedy to take."""
    available_bytes, source = _available(facts.host, instance)
    grown_bytes = at_bytes - (instance.tables_bytes or 0)
    verdict = _verdict(grown_bytes, available_bytes)
    best = None if instance.done else _picked(rows)
    nothing = instance.done or (
        None if best else "none of the open remedies saves enough to be worth a change"
    )
    sentence = _sentence(
        instance.name, verdict, instance.tables_bytes, at_bytes, kind, available_bytes, source
    )
    if instance.done:
        sentence += f" Nothing to do: {instance.done}."
    elif best is None:
        sentence += f" Nothing to do: {nothing}."
    return Outlook(
        verdict=verdict,
        words=_WORDS[verdict],
        sentence=sentence,
        today_bytes=instance.tables_bytes,
        at_maximum_bytes=at_bytes,
        at_maximum_kind=kind,
        available_bytes=available_bytes,
        done=nothing,
        remedy_id=best.id if best else None,
        remedy=best.remedy if best else None,
        command=best.command if best else None,
        saving_bytes=best.saving_bytes if best else 0,
        saving_kind=best.confidence if best else None,
        costs=_costs(best) if best else None,
        needs=best.takes if best else None,
    )


def of_host(facts: Facts, instances: Sequence[Outlook]) -> Outlook:
    """All instances at their maxima at once, on the memory that is available to all of them."""
    at_bytes = sum(instance.at_maximum_bytes for instance in instances)
    today_bytes = sum(instance.today_bytes or 0 for instance in instances) if facts.host.surveyed else None
    kind = weakest(*(instance.at_maximum_kind for instance in instances)) if instances else "measured"
    available_bytes = facts.host.memory_available_bytes
    if not facts.host.surveyed and facts.host.memory_total_bytes is not None:
        memory_bytes = sum(instance.size_bytes for instance in facts.instances)
        available_bytes = max(0, facts.host.memory_total_bytes - memory_bytes)
    verdict = _verdict(at_bytes - (today_bytes or 0), available_bytes)
    # What an instance does not survive, its host does not either.
    verdict = max([verdict, *(instance.verdict for instance in instances)], key=list(_WORDS).index)
    worst = max(
        (instance for instance in instances if instance.remedy_id),
        key=lambda instance: instance.saving_bytes,
        default=None,
    )
    name = facts.host.name or "the host"
    return Outlook(
        verdict=verdict,
        words=_WORDS[verdict],
        sentence=_sentence(name, verdict, today_bytes, at_bytes, kind, available_bytes, "memory available"),
        today_bytes=today_bytes,
        at_maximum_bytes=at_bytes,
        at_maximum_kind=kind,
        available_bytes=available_bytes,
        done=None if worst else "none of the open remedies saves enough to be worth a change",
        remedy_id=worst.remedy_id if worst else None,
        remedy=worst.remedy if worst else None,
        command=worst.command if worst else None,
        saving_bytes=sum(instance.saving_bytes for instance in instances),
        saving_kind=worst.saving_kind if worst else None,
        costs=worst.costs if worst else None,
        needs=worst.needs if worst else None,
    )


def _available(host: Host, instance: Instance) -> tuple[int | None, str]:
    """What page tables can grow into: of the host, or of the cgroup that binds first."""
    available_bytes, source = host.memory_available_bytes, "memory available"
    if not host.surveyed and host.memory_total_bytes is not None:
        available_bytes = max(0, host.memory_total_bytes - instance.size_bytes)
    for limit in instance.limits:
        if limit.resource == "memory":
            # Page tables are charged to the cgroup as its memory is.
            left_bytes = max(0, limit.limit_bytes - instance.size_bytes - (instance.tables_bytes or 0))
            if available_bytes is None or left_bytes < available_bytes:
                available_bytes, source = left_bytes, f"left by {limit.file}"
    return available_bytes, source


def _verdict(grown_bytes: int, available_bytes: int | None) -> Literal["fine", "at_risk", "will_run_out"]:
    if available_bytes is None or grown_bytes <= _AT_RISK * available_bytes:
        return "fine"
    return "at_risk" if grown_bytes <= available_bytes else "will_run_out"


def _sentence(
    name: str,
    verdict: str,
    today_bytes: int | None,
    at_bytes: int,
    kind: Kind,
    available_bytes: int | None,
    source: str,
) -> str:
    now = "" if today_bytes is None else f"page tables {format_size(today_bytes)} now (measured), "
    left = "" if available_bytes is None else f", {format_size(available_bytes)} {source}"
    if not now:
        now = "page tables "
    return f"{name}: {_WORDS[verdict]}: {now}{format_size(at_bytes)} at the maximum ({kind}){left}."


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
