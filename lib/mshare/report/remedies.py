# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What huge pages and mshare would save of an instance's page tables, by the plan's own arithmetic.

Twice: with the processes there are now, and with the most there may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..kernel.generations import GENERATIONS
from ..labels import KINDS, Kind
from ..plan.facts import Facts, Instance
from ..plan.outlook import Outlook
from ..plan.plan import InstancePlan, plan

_MSHARE = f"mshare_{list(GENERATIONS)[-1]}"
REMEDIES = {
    "hugetlb_2m": "huge pages of 2 MiB (hugetlb)",
    "hugetlb_1g": "huge pages of 1 GiB (hugetlb)",
    "collapse": "MADV_COLLAPSE, live (THP)",
    _MSHARE: "mshare",
}
"""The plan's remedies that a fleet's report compares, and what it calls them."""
HUGE, MSHARE = "hugetlb_2m", _MSHARE


@dataclass(frozen=True)
class Effect:
    """Page tables without and with a remedy, and what kind of figure the latter is."""

    before_bytes: int
    after_bytes: int
    kind: Kind

    @property
    def saved_bytes(self) -> int:
        return self.before_bytes - self.after_bytes

    @property
    def saved_percent(self) -> float:
        return 100 * self.saved_bytes / self.before_bytes if self.before_bytes else 0.0

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {**vars(self), "saved_bytes": self.saved_bytes}


@dataclass(frozen=True)
class Saving:
    """One remedy, for an instance or for many."""

    remedy: str
    instances: int
    usable: int
    """How many of the instances could use it today."""
    now: Effect
    maximum: Effect

    @property
    def name(self) -> str:
        return REMEDIES[self.remedy]


def savings_of(facts: Facts) -> tuple[Outlook, list[list[Saving]]]:
    """The plan's verdict on the host, and for each instance one saving per remedy, in the order of REMEDIES.

    The instances are in the facts' order, which is the survey's.
    """
    planned = plan(facts, generations=True)
    at_maximum = iter(planned.instances)
    now = iter(plan(_as_now(facts), generations=True).instances)
    return planned.outlook, [
        _planned(next(now), next(at_maximum)) if instance.segments or instance.region else _nothing(instance)
        for instance in facts.instances
    ]


def _as_now(facts: Facts) -> Facts:
    present = (replace(instance, clients_maximum=instance.processes or 0) for instance in facts.instances)
    return replace(facts, instances=tuple(present))


def _planned(now: InstancePlan, at_maximum: InstancePlan) -> list[Saving]:
    return [
        Saving(
            remedy, 1, int(at_maximum.row(remedy).usable), _effect(now, remedy), _effect(at_maximum, remedy)
        )
        for remedy in REMEDIES
    ]


def _effect(planned: InstancePlan, remedy: str) -> Effect:
    row = planned.row(remedy)
    return Effect(row.at_maximum_bytes, row.after_bytes, row.confidence)


def _nothing(instance: Instance) -> list[Saving]:
    """An instance without shared segments has nothing that a remedy would change, however many come."""
    sum_bytes, kind = instance.tables_bytes or 0, instance.tables_kind
    grown_bytes = instance.remainder_at(instance.clients_maximum)
    now = Effect(sum_bytes, sum_bytes, kind)
    later = Effect(grown_bytes, grown_bytes, "projected" if grown_bytes != sum_bytes else kind)
    return [Saving(remedy, 1, 0, now, later) for remedy in REMEDIES]


def add(remedy: str, parts: Sequence[Saving]) -> Saving:
    """The same remedy for several instances."""
    return Saving(
        remedy,
        sum(part.instances for part in parts),
        sum(part.usable for part in parts),
        _sum(part.now for part in parts),
        _sum(part.maximum for part in parts),
    )


def _sum(each: Iterable[Effect]) -> Effect:
    """A figure made of several is called by the weakest of them."""
    effects = list(each)
    return Effect(
        sum(effect.before_bytes for effect in effects),
        sum(effect.after_bytes for effect in effects),
        max((effect.kind for effect in effects), key=KINDS.index, default="measured"),
    )
