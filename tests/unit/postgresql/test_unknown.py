# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What starts a cluster and is no manager that is known: a clause for each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mshare.postgresql.managers.evidence import Ancestor, Evidence
from mshare.postgresql.managers.manager import Manager
from mshare.postgresql.managers.unknown import BY_NAMESPACE, BY_PROCESS, REST

RUNNING = Evidence("/srv/pg", "/srv/pg", postmaster=4711)


@pytest.mark.parametrize(
    "parents",
    [
        (),
        (Ancestor(1, "/usr/lib/systemd/systemd --user"),),
        (Ancestor(9, "(sd-pam)"),),
        (Ancestor(7, "init"),),
    ],
)
def test_an_init_manages_nothing(parents):
    assert BY_PROCESS.recognise(replace(RUNNING, parents=parents)) is None


def test_a_program_above_the_postmaster_is_named():
    found = BY_PROCESS.recognise(
        replace(RUNNING, parents=(Ancestor(12, "/opt/keeper --all"), Ancestor(9, "init")))
    )
    assert found == "its postmaster 4711 was started by process 12, /opt/keeper --all"


def test_a_namespace_that_no_unit_accounts_for():
    apart = replace(RUNNING, apart=("pid", "mnt"))
    clause = "its postmaster 4711 has a mount namespace of its own, and no systemd unit"
    assert BY_NAMESPACE.recognise(apart) == clause
    assert BY_NAMESPACE.recognise(replace(apart, unit="session-3.scope")) == clause
    assert BY_NAMESPACE.recognise(replace(apart, unit="pg.service")) is None, "PrivateTmp= and its like"
    assert BY_NAMESPACE.recognise(replace(RUNNING, apart=("pid",))) is None


@pytest.mark.parametrize(
    ("evidence", "clause"),
    [
        (replace(RUNNING, postmaster=None), "nothing on this host shows what starts the cluster in /srv/pg"),
        (RUNNING, "its postmaster 4711 is in no systemd unit"),
        (
            replace(RUNNING, unit="pg.service", starts="/opt/start"),
            "its postmaster 4711 is in unit pg.service, which runs /opt/start",
        ),
        (
            replace(RUNNING, unit="pg.scope"),
            "its postmaster 4711 is in unit pg.scope, which runs no program",
        ),
    ],
)
def test_the_rest_is_always_recognised(evidence, clause):
    assert REST.recognise(evidence) == clause


@pytest.mark.parametrize("manager", [BY_PROCESS, BY_NAMESPACE, REST])
def test_their_clusters_are_left_alone(manager):
    assert isinstance(manager, Manager)
    assert manager.advice is not None
    assert manager.name == REST.name
