# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A region that should be there, or not: what is done, and that a second time nothing is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mshare.converge.request import apply
from mshare.errors import Conflict, MshareError
from mshare.info import inventory
from mshare.region.converge import RegionAbsent, RegionPresent
from mshare.region.spec import RegionSpec
from rig.faults import fail_at
from rig.world import COMMAND


def present(here, size="64MiB", mode="0660", **consents) -> RegionPresent:
    given = {"name": "sga", "size": size, "mode": mode, "backend": "simulated", "root": str(here.root)}
    return RegionPresent(RegionSpec.from_dict(given), COMMAND, **consents)


def absent(here) -> RegionAbsent:
    return RegionAbsent("sga", "simulated", str(here.root))


def test_a_check_run_announces_and_changes_nothing(here):
    files = here.files()
    announced = apply(present(here), check=True)
    assert announced.changed
    assert any("create region sga" in action for action in announced.actions)
    assert here.files() == files
    done = apply(present(here))
    assert done.actions == announced.actions
    assert done.facts.health == "healthy"


def test_nothing_is_done_twice(here):
    apply(present(here))
    again = apply(present(here))
    assert (again.changed, again.actions) == (False, [])
    assert again.before == again.after


def test_another_size_is_refused_and_the_region_stays(here):
    first = apply(present(here)).facts
    with pytest.raises(Conflict, match="size should differ"):
        apply(present(here, "128MiB"))
    assert apply(present(here)).facts.owner.pid == first.owner.pid


def test_recreate_makes_it_anew(here):
    first = apply(present(here)).facts
    second = apply(present(here, "128MiB", recreate=True)).facts
    assert second.mapped_bytes == 2 * first.mapped_bytes
    assert second.owner.pid != first.owner.pid


def test_absent_leaves_nothing(here):
    nothing = here.files()
    apply(present(here))
    assert apply(absent(here)).changed
    assert here.files() == nothing
    assert here.processes() == []
    assert not apply(absent(here)).changed


def test_one_that_cannot_be_examined_after_its_start_is_removed_again(here, monkeypatch):
    nothing = here.files()
    calls = fail_at(monkeypatch, inventory, "region_facts", {2})
    with pytest.raises(OSError, match="Input/output error"):
        apply(present(here))
    assert len(calls) > 1
    assert here.files() == nothing
    assert here.processes() == []


def test_one_that_is_gone_right_after_its_start_is_removed_again(here, monkeypatch):
    nothing = here.files()
    real = inventory.region_facts

    def facts(root, name):
        return replace(real(root, name), health="missing")

    monkeypatch.setattr(inventory, "region_facts", facts)
    with pytest.raises(MshareError, match="was created, but then was missing, so it was removed again"):
        apply(present(here))
    assert here.files() == nothing
    assert here.processes() == []


def test_access_is_put_back_where_the_look_afterwards_fails_and_the_region_stays(here, monkeypatch):
    first = apply(present(here)).facts
    files = here.files()
    with monkeypatch.context() as patch:
        fail_at(patch, inventory, "region_facts", {2})
        with pytest.raises(OSError, match="Input/output error"):
            apply(present(here, mode="0600"))
    assert here.files() == files
    again = apply(present(here))
    assert not again.changed
    assert (again.facts.owner.pid, again.facts.mode) == (first.owner.pid, first.mode)
