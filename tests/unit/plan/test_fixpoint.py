# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan recommends, applied, leaves the next plan nothing to do: hosts of all sorts, made up at random.

Real servers and real memory are in the integration tests; here are combinations that they are too slow for.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from typing import Any

import pytest

from mshare.pagetable import page_tables
from mshare.plan.facts import from_survey
from mshare.plan.plan import Plan, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, KIB, MIB
from rig.surveys import PROCESS_BYTES, instance, pool, segment, survey

SMALL = 4 * KIB
IN_MEMORY = ("anonymous", "sysv", "memfd")
PRELOADED = ("anonymous", "sysv")
COLLAPSED = (*IN_MEMORY, "posix", "tmpfs")
ROUNDS = 4


class Host:
    """Servers of several kinds, a pool that others use in part, and what is done to them."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.instances = [
            self._instance(chance, f"server {number}") for number in range(chance.randint(1, 3))
        ]
        self.others = chance.choice([0, 0, 1000])
        self.total = self.others + chance.choice([0, 0, 5000, 12_000])
        whole = sum(each["size_bytes"] for one in self.instances for each in one["segments"])
        self.facts = {
            "memory_total_bytes": max(64 * GIB, 4 * whole),
            "memory_available_bytes": chance.choice([GIB, 20 * GIB, 100 * GIB]),
            "huge_page_default_bytes": chance.choice([2 * MIB, 2 * MIB, GIB]),
        }

    @staticmethod
    def _instance(chance: random.Random, name: str) -> Any:
        kind = chance.choice(["postgresql", "postgresql", "oracle", "php-fpm", "other", "python"])
        processes = chance.choice([3, 50, 300])
        one = instance(
            name,
            0,
            processes,
            maximum=chance.choice([None, 3 * processes]),
            kind=kind,
            version=chance.choice(["17", "13", "9.3"]) if kind == "postgresql" else None,
            huge_pages_requested=chance.choice([None, "try", "off"]),
            manager=chance.choice([None, None, "kubernetes"]),
            setuid=chance.random() < 0.1,
        )
        one["segments"] = [
            segment(
                chance.choice([3 * MIB, 64 * MIB, GIB + SMALL, 8 * GIB, 40 * GIB]),
                processes,
                kind=chance.choice([*IN_MEMORY, "posix", "file"]),
                address=(number + 1) << 40,
                congruent_2mib=chance.random() < 0.7,
                name=f"segment {number}",
            )
            for number in range(chance.randint(1, 3))
        ]
        _count(one)
        return one

    def plan(self) -> Plan:
        held = sum(
            -(-each["size_bytes"] // (2 * MIB))
            for one in self.instances
            for each in one["segments"]
            if each["page_bytes"] == 2 * MIB
        )
        free = self.total - held - self.others
        assert free >= 0, "the pool that was recommended is too small"
        found = survey("host", copy.deepcopy(self.instances))
        found["host"].update(self.facts)
        found["host"]["huge_page_pools"] = [pool(2 * MIB, total=self.total, free=free), pool(GIB)]
        return plan(from_survey(from_fields(found)))

    def apply(self, made: Plan) -> None:
        """What is recommended, and not only optional, to every server."""
        lines = [line for line in made.paste.sysctl if not line.startswith("#")]
        for one in self.instances:
            outlook = next(each.outlook for each in made.instances if each.name == one["name"])
            if outlook.remedy_id is None or outlook.optional:
                continue
            if outlook.remedy_id in ("hugetlb_2m", "preload_hugetlb"):
                assert lines, "a pool is needed, and none is to be made"
            if outlook.remedy_id == "pooling":
                one["processes"] = max(1, _clients(made, one["name"]) // 10)
                one["processes_maximum"] = None
                one["pids"] = one["pids"][: one["processes"]]
            for each in one["segments"]:
                _remedied(each, outlook.remedy_id)
                each["processes"] = min(each["processes"], one["processes"])
            _count(one)
        for line in lines:
            wanted = int(line.split()[-1])
            assert wanted >= self.total, "nobody's pages are taken away"
            self.total = wanted


def _clients(made: Plan, name: str) -> int:
    return next(each.clients_maximum for each in made.instances if each.name == name)


def _remedied(each: dict[str, Any], remedy: str) -> None:
    kind, size_bytes = each["kind"], each["size_bytes"]
    if each["page_bytes"] == SMALL and (
        (remedy == "hugetlb_2m" and kind in IN_MEMORY) or (remedy == "preload_hugetlb" and kind in PRELOADED)
    ):
        each.update(kind="hugetlb", page_bytes=2 * MIB, huge_bytes=size_bytes)
    elif remedy == "hugetlb_1g" and kind in (*IN_MEMORY, "hugetlb") and size_bytes >= GIB:
        each.update(kind="hugetlb", page_bytes=GIB, huge_bytes=size_bytes)
    elif (
        (remedy == "preload_thp" and kind in PRELOADED)
        or (remedy == "collapse" and kind in COLLAPSED and each["congruent_2mib"])
        or (remedy == "thp_shmem" and kind in COLLAPSED)
    ):
        each["huge_bytes"] = size_bytes


def _count(one: dict[str, Any]) -> None:
    """Its page tables, as every process that touched all of it pays them."""
    for each in one["segments"]:
        collapsed = each["page_bytes"] == SMALL and each["huge_bytes"] >= 0.9 * each["size_bytes"]
        pages = 2 * MIB if collapsed else each["page_bytes"]
        each["page_tables_bytes"] = each["processes"] * page_tables(each["size_bytes"], pages).total_bytes
    segments_bytes = sum(each["page_tables_bytes"] for each in one["segments"])
    sum_bytes = segments_bytes + one["processes"] * PROCESS_BYTES
    one["page_tables"].update(sum_bytes=sum_bytes, segments_bytes=segments_bytes)


FOUND = (331, 686, 841, 977, 1088, 1241, 1664, 2307, 2904)
"""Hosts whose servers were to be pooled again and again, which saved less each time and did not help them."""


@pytest.mark.parametrize(
    "seeds", [*(range(first, first + 30) for first in range(0, 120, 30)), FOUND], ids=str
)
def test_what_is_recommended_leaves_nothing_to_do(seeds: Iterable[int]) -> None:
    for seed in seeds:
        host = Host(seed)
        for __ in range(ROUNDS):
            made = host.plan()
            if all(one.outlook.optional or one.outlook.done for one in made.instances):
                break
            host.apply(made)
        else:
            pytest.fail(f"host {seed}: no end of recommendations, {made.instances}")
        if all(one.outlook.done for one in made.instances):
            assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ()), seed
