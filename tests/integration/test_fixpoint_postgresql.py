# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL that was started as the plan says: the next plan has nothing left to recommend."""

from __future__ import annotations

import os
import re

import pytest

from mshare.kernel import madvise
from mshare.plan.facts import Facts, from_survey
from mshare.plan.plan import InstancePlan, Plan, plan
from mshare.preload.settings import Settings
from mshare.survey.survey import survey
from mshare.units import MIB
from rig import huge_pages, postgresql

BUFFERS = "128MB"
SCALE = 1
BACKENDS = 20
PORT = 5623

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or postgresql.missing() is not None,
    reason=postgresql.missing() or "other users' page tables are root's to read",
)


def planned(server: postgresql.Server) -> tuple[Plan, InstancePlan, Facts]:
    """The plan for a server alone, when its backends have touched its memory, and what it is made from."""
    server.fill(SCALE)
    with server.backends(BACKENDS):
        surveyed = survey(threshold_bytes=1)
    (name,) = (one.name for one in surveyed.instances if server.pid in one.pids)
    facts = from_survey(surveyed, instance=name)
    made = plan(facts)
    return made, made.instances[0], facts


def nothing_is_left(server: postgresql.Server, promised: InstancePlan, remedy: str) -> None:
    made, one, __ = planned(server)
    assert one.outlook.done is not None, one.outlook
    assert "huge pages already" in one.outlook.done
    assert "Nothing to do" in one.outlook.sentence
    assert (one.outlook.remedy_id, one.outlook.command, one.outlook.saving_bytes) == (None, None, 0)
    assert (made.paste.sysctl, made.paste.database, made.paste.inventory) == ((), (), ())
    # Each process pays no more than was promised for the maximum, and the tables of a page or two.
    after = promised.row(remedy).after_bytes / promised.clients_maximum
    assert one.today_bytes is not None
    assert one.processes is not None
    assert one.today_bytes / one.processes <= after + 64 * 1024


@pytest.fixture(scope="module")
def before() -> tuple[Plan, InstancePlan, Facts]:
    """The plan for the server as it comes."""
    with postgresql.server(BUFFERS, port=PORT) as server:
        return planned(server)


def wanted_pages(made: Plan, facts: Facts) -> int:
    """How many pages the lines to paste ask for, without those that others had in use then."""
    (line,) = (line for line in made.paste.sysctl if re.match(r"vm\.nr_hugepages = |w /sys", line))
    return int(line.split()[-1]) - facts.host.pools[2 * MIB].used


@pytest.mark.skipif(not madvise.can_collapse(), reason="this kernel has no MADV_COLLAPSE")
def test_the_preload_with_transparent_huge_pages(
    before: tuple[Plan, InstancePlan, Facts], library: str
) -> None:
    __, first, __ = before
    assert first.row("preload_thp").usable, first.row("preload_thp").reasons
    with postgresql.server(BUFFERS, port=PORT, environment=Settings("thp").environment(library)) as server:
        __, one, __ = planned(server)
        if one.outlook.done is None and "in part" in (server.directory / "log").read_text(errors="replace"):
            pytest.skip("this machine has no free huge pages to collapse into")
        nothing_is_left(server, first, "preload_thp")


def test_the_preload_with_pages_of_the_pool(before: tuple[Plan, InstancePlan, Facts], library: str) -> None:
    made, first, facts = before
    assert first.row("preload_hugetlb").usable, first.row("preload_hugetlb").reasons
    with (
        huge_pages.reserved(wanted_pages(made, facts)),
        postgresql.server(BUFFERS, port=PORT, environment=Settings("hugetlb").environment(library)) as server,
    ):
        nothing_is_left(server, first, "preload_hugetlb")


def test_the_setting_of_the_database_itself(before: tuple[Plan, InstancePlan, Facts]) -> None:
    made, first, facts = before
    assert "huge_pages = on" in made.paste.database
    # The pool is as large as the plan says, and no larger: the server would not start with less.
    with (
        huge_pages.reserved(wanted_pages(made, facts)),
        postgresql.server(BUFFERS, port=PORT, huge_pages="on") as server,
    ):
        nothing_is_left(server, first, "hugetlb_2m")
