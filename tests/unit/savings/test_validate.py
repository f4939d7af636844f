# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clients are validated, and what nobody measured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mshare.backends.choose import Choice
from mshare.errors import MshareError
from mshare.savings import validate as validating
from mshare.savings.clients_seen import ClientsSeen
from mshare.savings.programs import Programs
from rig.world import World, new_world


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


def test_clients_that_run_a_command_were_not_measured(world: World) -> None:
    """They tell nothing of themselves: neither how long it took them, nor what the region costs them."""
    world.ok("create", "sga", "--size", "64MiB")
    world.ok("clients", "start", "sga", "--count", "2", "--", "sleep", "600")
    facts = world.json("clients", "status", "sga")["clients"]
    assert (facts["attached"], facts["attach_ms_median"], facts["vm_pte_before_bytes_sum"]) == (2, None, None)
    assert facts["vm_pte_after_bytes_sum"] > 0
    assert "attaching" not in world.ok("clients", "status", "sga")
    answer = world.json("validate", "sga", "--probes", "1")
    figures = answer["figures"]
    assert not {"attach_median", "attach_slowest"} & figures.keys()
    assert figures["without_sharing_per_client"]["kind"] == "measured", "by the probe"
    assert figures["without_sharing"]["kind"] == "projected"
    assert figures["without_sharing"]["value"] == 2 * figures["without_sharing_per_client"]["value"]
    assert figures["saving"]["kind"] == "projected"
    shown = world.ok("validate", "sga", "--probes", "1")
    assert "Attach time" not in shown
    assert "touched by each client" not in shown
    for line in shown.splitlines():
        assert "0.0 ms" not in line
        assert not (line.startswith("Page tables without sharing") and line.endswith(" measured"))


def test_a_region_of_which_nobody_knows_how_much_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel, one that a preload made: no mshare owner writes it down."""
    seen = ClientsSeen("preload.7.1", "kernel", 1, 1)
    monkeypatch.setattr(validating, "locate", lambda backend, root: Choice("kernel", "/m", "it is mounted"))
    monkeypatch.setattr(validating, "attached_programs", lambda *where: Programs(seen, {"postgres": 1}))
    with pytest.raises(MshareError, match=r"is not known, .*; give a span \(`mshare validate --span`\)"):
        validating.validate("preload.7.1")
    found = validating.validate("preload.7.1", span_bytes=2 << 20, probes=1)
    assert found.figures["without_sharing"].kind == "projected"
