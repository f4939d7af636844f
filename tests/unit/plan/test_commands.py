# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one command that applies a remedy, where one does."""

from __future__ import annotations

import json
import shlex

import pytest

from mshare.plan.commands import command
from mshare.plan.facts import Instance

DEBIAN = "/var/lib/postgresql/15/main"
REMEDY = "ansible-playbook dbmem.mshare.remedy -e mshare_remedy="
NAMES = """ -e '{"mshare_remedy_instances": ["15 main"]}'"""
RESTART = " -e mshare_remedy_restart_ok=true"


def instance(kind="postgresql", **fields) -> Instance:
    return Instance("15 main", kind, (), 100, "measured", **fields)


@pytest.mark.parametrize(
    ("remedy", "words"),
    [
        ("hugetlb_2m", f"native{NAMES}{RESTART}"),
        ("preload_hugetlb", f"hugetlb{NAMES}{RESTART}"),
        ("preload_thp", f"thp{NAMES}{RESTART}"),
        # Nothing is restarted for it.
        ("collapse", f"collapse{NAMES}"),
    ],
)
@pytest.mark.parametrize("directory", [DEBIAN, DEBIAN + "/", "/var/lib/pgsql/16/data"])
def test_a_postgresql_that_nothing_else_manages(remedy, words, directory):
    assert command(remedy, instance(data_directory=directory)) == REMEDY + words


def test_a_name_is_one_word_and_one_name():
    named = Instance("pg 'a', b $(reboot)", "postgresql", (), 100, "measured", data_directory="/srv/pg")
    words = shlex.split(command("preload_thp", named) or "")
    assert json.loads(words[5]) == {"mshare_remedy_instances": [named.name]}


def test_a_region_of_its_own():
    assert command("mshare", instance(data_directory=DEBIAN)) == (
        "ansible-playbook dbmem.mshare.postgresql -e mshare_postgresql_version=15"
        " -e mshare_postgresql_cluster=main -e mshare_postgresql_pages=4k -e mshare_postgresql_region=15_main"
    )


@pytest.mark.parametrize(
    "other",
    [
        instance(data_directory=DEBIAN, container="docker 4711"),
        instance(data_directory=DEBIAN, manager="patroni"),
        instance("oracle"),
        instance(),
    ],
    ids=["in a container", "of Patroni", "another database", "an unknown place"],
)
def test_any_other_program(other):
    assert command("preload_thp", other) == "mshare run --pages thp -- COMMAND"
    assert command("mshare", other) is None, "it takes more than one command"
    assert command("hugetlb_2m", other) is None


def test_collapse_names_what_it_means():
    assert command("collapse", instance("other", unit="pg.service")) == "mshare collapse pg.service"
    assert command("collapse", instance("other")) is None
    # In a container there may be many of one directory, which are none of its host.
    inside = instance(data_directory="/var/lib/postgresql/data", container="container 0123456789ab", pid=4711)
    assert command("collapse", inside) == "mshare collapse 4711"
    hostile = "/srv/$(reboot); x"
    words = command("collapse", instance(data_directory=hostile, manager="patroni"))
    assert shlex.split(words or "") == ["mshare", "collapse", hostile]


def test_what_takes_more_than_a_command():
    assert command("nothing", instance(data_directory=DEBIAN)) is None
