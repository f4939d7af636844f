# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts a cluster: programs above its postmaster, or the unit it runs in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mshare.postgresql.managers.evidence import Ancestor, Evidence
from mshare.postgresql.managers.keepers import KEEPERS
from mshare.postgresql.managers.systemd_unit import SYSTEMD_UNIT

RUNNING = Evidence("/srv/pg", "/srv/pg", postmaster=4711)


def recognised(evidence: Evidence) -> list[str]:
    return [keeper.name for keeper in KEEPERS if keeper.recognise(evidence) is not None]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("/usr/sbin/pacemakerd", "Pacemaker"),
        ("/usr/bin/pg_autoctl run", "pg_auto_failover"),
        ("stolon-keeper --cluster-name x", "Stolon"),
        ("repmgrd -f /etc/repmgr.conf", "repmgrd"),
        ("/controller/manager instance run", "the operator CloudNativePG"),
        ("/usr/bin/python3 /usr/bin/supervisord -n", "supervisord"),
        ("runsv postgres", "a runit or s6 supervisor"),
    ],
)
def test_each_by_its_process(title, name):
    parents = (Ancestor(30, "sh -c start"), Ancestor(20, title))
    assert recognised(replace(RUNNING, parents=parents)) == [name]
    (keeper,) = [keeper for keeper in KEEPERS if keeper.name == name]
    assert keeper.recognise(replace(RUNNING, parents=parents)) == (
        f"its postmaster 4711 was started by process 20, {title}"
    )
    assert keeper.advice, "its clusters are left alone"


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        ("pacemaker.service", ["Pacemaker"]),
        ("pgautofailover.service", ["pg_auto_failover"]),
        ("repmgr15.service", []),
        ("repmgrd.service", ["repmgrd"]),
        ("postgresql.service", []),
    ],
)
def test_by_its_unit(unit, names):
    assert recognised(replace(RUNNING, unit=unit)) == names


def test_a_word_far_behind_in_a_command_line_is_no_program():
    far = Ancestor(20, "vi -R /etc/hosts /usr/bin/supervisord")
    assert recognised(replace(RUNNING, parents=(far,))) == []


def test_a_unit_that_starts_postgresql_itself():
    starts = "{ path=/usr/pgsql-15/bin/postgres ; argv[]=/usr/pgsql-15/bin/postgres -D /srv/pg ; }"
    own = replace(RUNNING, unit="postgresql-15.service", starts=starts)
    assert SYSTEMD_UNIT.recognise(own) == "its postmaster 4711 is in unit postgresql-15.service"
    assert SYSTEMD_UNIT.recognise(replace(own, postmaster=None)) == "unit postgresql-15.service starts it"
    assert SYSTEMD_UNIT.recognise(replace(own, starts="/opt/start")) is None
    assert SYSTEMD_UNIT.recognise(RUNNING) is None
    assert SYSTEMD_UNIT.advice is None, "it is supported"
