# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the active profile of tuned sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare.huge_pages import elsewhere, tuned
from mshare.huge_pages.setting import Setting
from mshare.units import MIB
from rig.pools import Pools

POOL = "vm.nr_hugepages"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"


def found(pools: Pools) -> list[tuple[str, str, str]]:
    return [(each.file, each.what, each.value) for each in tuned.settings(pools.host, 2 * MIB)]


TUNED = [
    # An instance of a plugin under a name of its own.
    ("[pages]\ntype=sysctl\nvm.nr_hugepages=64\n", (POOL, "64")),
    ("[variables]\npages=64\n[sysctl]\nvm.nr_hugepages=${pages}\n", (POOL, "${pages}")),
    ("[sysctl]\n# vm.nr_hugepages=1\nvm.nr_hugepages = >64\n", (POOL, ">64")),
    ("[vm]\ntransparent_hugepage=never\n", (THP, "never")),
]


@pytest.mark.parametrize(("text", "expected"), TUNED)
def test_what_a_profile_of_tuned_sets(tmp_path: Path, text: str, expected: tuple[str, str]) -> None:
    pools = Pools(tmp_path)
    pools.write("etc/tuned/active_profile", "db\n")
    pools.write("etc/tuned/db/tuned.conf", text)
    assert found(pools) == [("/etc/tuned/db/tuned.conf", *expected)]


def test_the_script_of_a_profile_and_the_profile_after_it(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.write("etc/tuned/active_profile", "db\n")
    pools.write("etc/tuned/post_loaded_profile", "last\n")
    pools.write("usr/lib/tuned/profiles/db/tuned.conf", "[script]\nscript=${i:PROFILE_DIR}/script.sh\n")
    pools.write("usr/lib/tuned/profiles/db/script.sh", "#!/bin/sh\nsysctl -w vm.nr_hugepages=64\n")
    pools.write("etc/tuned/profiles/last/tuned.conf", "[sysctl]\nvm.nr_hugepages=65\n")
    assert found(pools) == [
        ("/usr/lib/tuned/profiles/db/script.sh", POOL, "64"),
        ("/etc/tuned/profiles/last/tuned.conf", POOL, "65"),
    ]


def test_a_pattern_is_each_file_that_the_host_has(tmp_path: Path) -> None:
    pools = Pools(tmp_path, nodes=2)
    pools.write("etc/tuned/active_profile", "db\n")
    pattern = "/sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages"
    pools.write("etc/tuned/db/tuned.conf", f"[sysfs]\n{pattern}=64\n")
    nodes = [pattern.replace("*", number) for number in "01"]
    assert elsewhere.settings(pools.host, 2 * MIB) == [
        Setting("/etc/tuned/db/tuned.conf", node, "64", by_pattern=True) for node in nodes
    ]
