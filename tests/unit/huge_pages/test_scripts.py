# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell commands that set huge pages at boot, told from those that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare.huge_pages import elsewhere, scripts
from mshare.units import MIB
from rig.pools import Pools

POOL = "vm.nr_hugepages"
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
ONE_GIB = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
NODE = "/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages"


def found(pools: Pools) -> list[tuple[str, str, str]]:
    return [(each.file, each.what, each.value) for each in elsewhere.settings(pools.host, 2 * MIB)]


@pytest.mark.parametrize(
    ("line", "what", "value"),
    [
        ("echo 64 > /proc/sys/vm/nr_hugepages", POOL, "64"),
        ("echo -n '64' >/proc/sys/vm/nr_hugepages_mempolicy", POOL, "64"),
        ('echo "64">"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"', POOL, "64"),
        ("echo 64 | sudo tee -a /proc/sys/vm/nr_hugepages >/dev/null", POOL, "64"),
        ("[ -w /proc/sys/vm/nr_hugepages ] && echo 64 > /proc/sys/vm/nr_hugepages", POOL, "64"),
        # The hour of cron's is no value.
        ("0 5 * * * root echo 64 > /proc/sys/vm/nr_hugepages", POOL, "64"),
        ("sysctl -qw vm.nr_hugepages=64", POOL, "64"),
        ("/sbin/sysctl 'vm/nr_hugepages=64'; exit 0", POOL, "64"),
        ("sysctl -w vm.hugetlb_shm_group=1001", "vm.hugetlb_shm_group", "1001"),
        ("echo 1001 > /proc/sys/vm/hugetlb_shm_group", "vm.hugetlb_shm_group", "1001"),
        # What a script computes is told as it is written.
        ("echo $PAGES > /proc/sys/vm/nr_hugepages", POOL, "$PAGES"),
        ("sysctl -w vm.nr_hugepages=$((2 * N))", POOL, "$((2"),
        ("awk '{print $2}' /etc/pages > /proc/sys/vm/nr_hugepages", POOL, "what a command prints"),
        ("echo $1 > $nodes_path/$2/hugepages/hugepages-1048576kB/nr_hugepages", ONE_GIB, "$1"),
        ("echo 4 > ${node}/hugepages/hugepages-2048kB/nr_hugepages", POOL, "4"),
        (f"echo 4 > {NODE}", NODE, "4"),
        (f"echo never > {THP}", THP, "never"),
    ],
)
def test_a_command_that_sets_huge_pages(tmp_path: Path, line: str, what: str, value: str) -> None:
    pools = Pools(tmp_path)
    pools.write("etc/rc.local", f"#!/bin/sh\n{line}\n")
    assert found(pools) == [("/etc/rc.local", what, value)]


@pytest.mark.parametrize(
    "line",
    [
        "# echo 64 > /proc/sys/vm/nr_hugepages",
        "5 4 * * * root cat /proc/sys/vm/nr_hugepages",
        "if [ $(cat /proc/sys/vm/nr_hugepages) -lt 64 ]; then logger 'too few huge pages'; fi",
        "grep 64 /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "cat /proc/sys/vm/nr_hugepages > /var/log/huge_pages 2>&1",
        'test "$(sysctl -n vm.nr_hugepages)" = 64',
        "sysctl vm.nr_hugepages",
        "sysctl -w vm.nr_overcommit_hugepages=64",
        "echo 64 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
        f"cat {THP}",
        "hugeadm --pool-list",
    ],
)
def test_a_command_that_does_not(tmp_path: Path, line: str) -> None:
    pools = Pools(tmp_path)
    pools.write("etc/cron.d/pages", f"{line}\n")
    assert found(pools) == []


def test_a_script_that_a_unit_runs_is_read_as_well(tmp_path: Path) -> None:
    """As Red Hat's documentation has it for pages of 1 GiB on NUMA nodes."""
    pools = Pools(tmp_path)
    script = "/usr/lib/systemd/hugetlb-reserve-pages.sh"
    unit = "/usr/lib/systemd/system/hugetlb-gigantic-pages.service"
    pools.write(unit, f"[Service]\nType=oneshot\nExecStart={script}\n[Install]\nWantedBy=sysinit.target\n")
    pools.write(
        script,
        "#!/bin/sh\nreserve_pages()\n{\n"
        " echo $1 > $nodes_path/$2/hugepages/hugepages-1048576kB/nr_hugepages\n}\nreserve_pages 2 node1\n",
    )
    # A package's unit that is not enabled sets nothing.
    assert found(pools) == []
    link = pools.path("/etc/systemd/system/sysinit.target.wants/hugetlb-gigantic-pages.service")
    link.parent.mkdir(parents=True)
    link.symlink_to(unit)
    assert found(pools) == [(f"{script}, run by {unit}", ONE_GIB, "$1")]
    # An administrator's unit of that name replaces it.
    pools.write("/etc/systemd/system/hugetlb-gigantic-pages.service", "[Service]\nExecStart=/bin/true\n")
    assert found(pools) == []


def test_the_script_of_dpdk_sets_what_its_file_says(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    script = "/usr/lib/dpdk/dpdk-init"
    pools.write("usr/lib/systemd/system/dpdk.service", f"[Service]\nExecStart={script} start\n")
    pools.write(script, '#!/bin/sh\necho "$PAGES" > "$MMDIR/nr_hugepages"\n')
    assert found(pools) == []
    pools.write("etc/dpdk/dpdk.conf", "NR_2M_PAGES=64\n")
    assert found(pools) == [("/etc/dpdk/dpdk.conf", POOL, "64")]


def test_what_is_no_script_is_not_read(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.write("usr/local/bin/pages", "\x7fELF sysctl -w vm.nr_hugepages=64\n")
    pools.path("usr/local/bin/folder").mkdir()
    pools.write("etc/rc.local", "/usr/local/bin/pages\n/usr/local/bin/folder\n/usr/local/bin/gone\n")
    assert found(pools) == []
    pools.write("usr/local/bin/pages", "#!/bin/sh\nsysctl -w vm.nr_hugepages=64\n")
    assert found(pools) == [("/usr/local/bin/pages, run by /etc/rc.local", POOL, "64")]
    pools.write("usr/local/bin/pages", "#!/bin/sh\nsysctl -w vm.nr_hugepages=64\n" + "#" * (256 << 10))
    assert found(pools) == []


def test_a_unit_without_an_install_section_is_started_by_another(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    unit = "/usr/lib/systemd/system/pages.service"
    pools.write(unit, "[Service]\nExecStart=/sbin/sysctl vm.nr_hugepages=64\n")
    assert found(pools) == [(unit, POOL, "64")]


def test_a_template_is_enabled_by_its_instances(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    unit = "/usr/lib/systemd/system/pages@.service"
    pools.write(unit, "[Service]\nExecStart=/sbin/sysctl vm.nr_hugepages=64\n[Install]\n")
    assert found(pools) == []
    link = pools.path("/etc/systemd/system/multi-user.target.wants/pages@2M.service")
    link.parent.mkdir(parents=True)
    link.symlink_to(unit)
    assert found(pools) == [(unit, POOL, "64")]


def test_a_text_without_huge_pages_is_passed_over() -> None:
    assert list(scripts.of_text("x", "sysctl -w vm.swappiness=1\n", 2 * MIB)) == []
