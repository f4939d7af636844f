# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host, in the fields that commands and modules answer."""

from __future__ import annotations

import json
from dataclasses import replace

from mshare.backends.mapping import Mapping, MappingEntry
from mshare.info.facts import (
    GenerationFacts,
    HostFacts,
    MemoryFacts,
    MountFacts,
    OwnerFacts,
    RegionFacts,
    Support,
)

REGION = RegionFacts(
    name="sga",
    root="/run/msharefs",
    path="/run/msharefs/sga",
    mode="0600",
    uid=0,
    gid=0,
    exists=True,
    window_bytes=1 << 39,
    mapped_bytes=1 << 30,
    address=None,
    mappings=(MappingEntry.of(Mapping(0, 1 << 30)),),
    owner=OwnerFacts(4711, True, "ready", None, "0.1.0", -1000),
    health="healthy",
    clients=None,
)
FACTS = HostFacts(
    Support(True, False, "simulated", "/run/msharefs", True, ("because",)),
    (MountFacts("/run/msharefs"),),
    (REGION,),
    MemoryFacts(1 << 34, 1 << 33, None),
    (GenerationFacts("2026-05", "described, not posted", "a talk", {"nameless": True}),),
)


def test_support_comes_first_and_the_rest_beside_it():
    fields = FACTS.to_fields()
    assert list(fields) == [
        *("supported", "kernel_supported", "backend", "root", "mounted", "reasons"),
        *("mounts", "regions", "memory", "generations"),
    ]
    stored = json.loads(json.dumps(fields))
    assert stored["reasons"] == ["because"]
    (region,) = stored["regions"]
    assert region["owner"]["pid"] == 4711
    assert region["mappings"] == [MappingEntry.of(Mapping(0, 1 << 30)).to_fields()]


def test_what_is_not_known_is_null_and_not_left_out():
    stored = json.loads(json.dumps(replace(FACTS, regions=()).to_fields()))
    assert stored["memory"] == {
        "total_bytes": 1 << 34,
        "available_bytes": 1 << 33,
        "page_tables_bytes": None,
    }
    assert stored["mounts"][0]["generation"] is None
    assert stored["regions"] == []
