# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one command that applies a remedy, where one does."""

from __future__ import annotations

import shlex

import pytest

from mshare.plan.commands import command
from mshare.plan.facts import Instance

DEBIAN = "/var/lib/postgresql/15/main"
PLAYBOOK = (
    "ansible-playbook dbmem.mshare.postgresql -e mshare_postgresql_version=15"
    " -e mshare_postgresql_cluster=main -e mshare_postgresql_pages="
)


def instance(kind="postgresql", **fields) -> Instance:
    return Instance("15 main", kind, (), 100, "measured", **fields)


@pytest.mark.parametrize(
    ("remedy", "ends"),
    [
        ("preload_thp", "thp"),
        ("preload_hugetlb", "hugetlb"),
        ("mshare", "4k -e mshare_postgresql_region=15_main"),
    ],
)
def test_a_cluster_of_debian(remedy, ends):
    assert command(remedy, instance(data_directory=DEBIAN)) == PLAYBOOK + ends
    assert command(remedy, instance(data_directory=DEBIAN + "/")) == PLAYBOOK + ends


@pytest.mark.parametrize(
    "other",
    [
        instance(data_directory="/srv/pg"),
        instance(data_directory=DEBIAN, container="docker 4711"),
        instance("oracle"),
        instance(),
    ],
    ids=["another place", "in a container", "another database", "an unknown place"],
)
def test_any_other_program(other):
    assert command("preload_thp", other) == "mshare run --pages thp -- COMMAND"
    assert command("mshare", other) is None, "it takes more than one command"


def test_collapse_names_what_it_means():
    assert command("collapse", instance(data_directory="/srv/my pg")) == "mshare collapse '/srv/my pg'"
    assert command("collapse", instance(unit="pg.service")) == "mshare collapse pg.service"
    assert command("collapse", instance()) is None
    hostile = "/srv/$(reboot); x"
    assert shlex.split(command("collapse", instance(data_directory=hostile))) == [
        "mshare",
        "collapse",
        hostile,
    ]


@pytest.mark.parametrize("remedy", ["hugetlb_2m", "nothing"])
def test_what_takes_more_than_a_command(remedy):
    assert command(remedy, instance(data_directory=DEBIAN)) is None
