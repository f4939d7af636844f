# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is set at boot, by whom, and in which order it takes effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare.errors import Conflict, Unavailable
from mshare.huge_pages import boot, elsewhere, memlock
from mshare.huge_pages.need import Target
from mshare.huge_pages.setting import Setting
from mshare.huge_pages.spec import make
from mshare.services import systemd
from mshare.units import GIB, MIB
from rig.pools import Pools


def test_everything_that_sets_pools_in_the_order_of_effect(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.write(
        "proc/cmdline",
        "default_hugepagesz=2M hugepages=1 hugepagesz=1G hugepages=0:2,1:3 transparent_hugepage=never",
    )
    pools.write("usr/lib/sysctl.d/90-b.conf", "vm.nr_hugepages = 3")
    pools.write("etc/sysctl.d/10-a.conf", "vm/hugetlb_shm_group = 7\nvm.nr_hugepages = 2")
    pools.write("etc/sysctl.conf", "vm.nr_hugepages=4")
    pools.path("etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    pools.write(
        "etc/tmpfiles.d/x.conf", "#w x\nw /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages - - - - 5"
    )
    pools.write("etc/rc.local", "# echo 1 > /proc/sys/vm/nr_hugepages\nsysctl -w vm.nr_hugepages=6\n")
    pools.write("etc/tuned/active_profile", "child")
    pools.write("etc/tuned/child/tuned.conf", "[main]\ninclude=parent\n[vm]\ntransparent_hugepages=never")
    pools.write("usr/lib/tuned/parent/tuned.conf", "[sysctl]\nvm.nr_hugepages=7\n[vm]\n#x=1")
    one_gib = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
    node = "/sys/devices/system/node/node{}/hugepages/hugepages-1048576kB/nr_hugepages"
    thp = "/sys/kernel/mm/transparent_hugepage/enabled"
    assert elsewhere.settings(pools.host, 2 * MIB) == [
        Setting("/proc/cmdline", "vm.nr_hugepages", "1"),
        Setting("/proc/cmdline", node.format(0), "2"),
        Setting("/proc/cmdline", node.format(1), "3"),
        Setting("/proc/cmdline", thp, "never"),
        Setting("/etc/sysctl.d/10-a.conf", "vm.hugetlb_shm_group", "7"),
        Setting("/etc/sysctl.d/10-a.conf", "vm.nr_hugepages", "2"),
        Setting("/usr/lib/sysctl.d/90-b.conf", "vm.nr_hugepages", "3"),
        Setting("/etc/sysctl.conf", "vm.nr_hugepages", "4"),
        Setting("/etc/tmpfiles.d/x.conf", one_gib, "5"),
        Setting("/etc/rc.local", "vm.nr_hugepages", "6"),
        Setting("/usr/lib/tuned/parent/tuned.conf", "vm.nr_hugepages", "7"),
        Setting("/etc/tuned/child/tuned.conf", thp, "never"),
    ]


def test_sysctl_conf_takes_effect_where_its_link_is(tmp_path: Path) -> None:
    """systemd reads it through the link only; `sysctl --system`, which others have, reads it last."""
    pools = Pools(tmp_path)
    pools.write("etc/sysctl.conf", "vm.nr_hugepages = 1")
    pools.write("etc/sysctl.d/zz.conf", "vm.nr_hugepages = 2")

    def order() -> list[str]:
        return [setting.file for setting in elsewhere.settings(pools.host, 2 * MIB)]

    assert order() == ["/etc/sysctl.d/zz.conf", "/etc/sysctl.conf"]
    pools.path("etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    assert order() == ["/etc/sysctl.conf", "/etc/sysctl.d/zz.conf"]
    pools.path("run/systemd/system").rmdir()
    assert order() == ["/etc/sysctl.d/zz.conf", "/etc/sysctl.conf"]


def test_sysctls_on_the_kernel_s_command_line(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.write(
        "proc/cmdline", "ro sysctl.vm.nr_hugepages=3 sysctl/vm/hugetlb_shm_group=4 sysctl.vm.swappiness=1"
    )
    assert elsewhere.settings(pools.host, 2 * MIB) == [
        Setting("/proc/cmdline", "vm.nr_hugepages", "3"),
        Setting("/proc/cmdline", "vm.hugetlb_shm_group", "4"),
    ]


@pytest.mark.parametrize(
    ("name", "folder", "is_ours_first"),
    [
        # Of lines for the same path systemd-tmpfiles applies the first, and logs that it ignores the others.
        ("50-a.conf", "hugepages-2048kB", True),
        ("70-a.conf", "hugepages-2048kB", False),
        # Patterns of paths are applied in the order of the names.
        ("50-a.conf", "hugepages-204?kB", False),
        ("70-a.conf", "hugepages-2048k*", True),
    ],
)
def test_the_order_of_effect_of_tmpfiles(tmp_path: Path, name: str, folder: str, is_ours_first: bool) -> None:
    pools = Pools(tmp_path)
    pools.write(f"etc/tmpfiles.d/{name}", f"w /sys/kernel/mm/hugepages/{folder}/nr_hugepages - - - - 5\n")
    # Where the default pages have 1 GiB, those of 2 MiB are in tmpfiles.d.
    wanted = boot.Wanted((Target(2 * MIB, None, 64, ()),), None, None, GIB)
    with pytest.raises(Conflict) as refused:
        boot.require_alone(pools.host, wanted)
    ours, theirs = f"{boot.TMPFILES_FILE} (ours)", f"/etc/tmpfiles.d/{name} ("
    positions = [str(refused.value).index(each) for each in (ours, theirs)]
    assert (positions[0] < positions[1]) == is_ours_first


def test_a_profile_that_includes_itself_ends(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.write("etc/tuned/active_profile", "loop")
    pools.write("etc/tuned/loop/tuned.conf", "[main]\ninclude=loop\n[sysctl]\nvm.nr_hugepages=7")
    assert {each.value for each in elsewhere.settings(pools.host, 2 * MIB)} == {"7"}


def test_the_sysctl_counts_pages_of_the_default_size_only(tmp_path: Path) -> None:
    target = Target(2 * MIB, None, 64, ())
    made = boot.boot(Pools(tmp_path).host, boot.Wanted((target,), None, None, GIB))
    assert list(made.files) == [boot.TMPFILES_FILE]
    assert (
        "w /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages - - - - 64\n"
        in made.files[boot.TMPFILES_FILE]
    )


def test_where_nothing_applies_them_at_boot_that_is_told(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    pools.path("run/systemd/system").rmdir()
    wanted = boot.Wanted((Target(2 * MIB, None, 64, ()),), None, "never", 2 * MIB)
    assert boot.boot(pools.host, wanted).reasons == (
        "nothing on this host applies /etc/sysctl.d/60-mshare-huge-pages.conf at boot (no systemd, no script"
        " procps or sysctl)",
        "nothing on this host applies /etc/tmpfiles.d/60-mshare-huge-pages.conf at boot, because systemd does"
        " not run here",
    )
    pools.write("etc/init.d/procps", "#!/bin/sh")
    assert len(boot.boot(pools.host, wanted).reasons) == 1


def test_pages_of_1_gib_on_nodes_on_the_command_line(tmp_path: Path) -> None:
    targets = (Target(GIB, 0, 2, ()), Target(GIB, 1, 3, ()))
    pools = Pools(tmp_path)
    wanted = boot.Wanted(targets, None, None, 2 * MIB)
    assert boot.boot(pools.host, wanted).command_line == "hugepagesz=1G hugepages=0:2,1:3"
    pools.write("proc/cmdline", "hugepagesz=1G hugepages=0:2,1:3")
    assert boot.boot(pools.host, wanted).command_line == ""


@pytest.mark.parametrize(
    ("entry", "path", "text"),
    [
        (
            {"unit": "postgresql@15-main.service"},
            "/etc/systemd/system/postgresql@15-main.service.d/zz-mshare-memlock.conf",
            "[Service]\nLimitMEMLOCK=infinity\n",
        ),
        (
            {"unit": "db.service", "limit": "2MiB"},
            "/etc/systemd/system/db.service.d/zz-mshare-memlock.conf",
            "[Service]\nLimitMEMLOCK=2097152\n",
        ),
        (
            {"user": "oracle", "limit": "2MiB"},
            "/etc/security/limits.d/zz-mshare-memlock-oracle.conf",
            "oracle soft memlock 2048\noracle hard memlock 2048\n",
        ),
    ],
)
def test_locked_memory_is_a_file_of_its_own(entry: dict[str, object], path: str, text: str) -> None:
    ((made, content),) = memlock.files(make(memlock=[entry]).memlock).items()
    assert made == path
    assert content.partition("\n")[2] == text
    assert memlock.is_drop_in(path) == ("unit" in entry)


def test_a_unit_that_writes_a_pool_at_boot_is_found(tmp_path: Path) -> None:
    pools = Pools(tmp_path)
    place = "/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages"
    pools.write("etc/systemd/system/huge.service", f"[Service]\nExecStart=/bin/sh -c 'echo 4 > {place}'\n")
    assert elsewhere.settings(pools.host, 2 * MIB) == [
        Setting("/etc/systemd/system/huge.service", place, "4")
    ]


def test_the_limit_of_a_unit_needs_systemd_and_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools(tmp_path)
    requests = make(memlock=[{"unit": "db.service"}]).memlock
    states = {"db.service": "not-found"}
    monkeypatch.setattr(systemd, "ask", lambda *words: states[words[-1]])
    with pytest.raises(Unavailable, match=r"systemd has no unit db\.service on this host"):
        memlock.require(pools.host, requests)
    states["db.service"] = "loaded"
    memlock.require(pools.host, requests)
    assert memlock.warnings(pools.host, requests, {memlock.file_of(requests[0])}) == [
        "the limit of locked memory of unit db.service takes effect when it is restarted"
    ]
    assert memlock.warnings(pools.host, requests, ()) == []
    pools.path("run/systemd/system").rmdir()
    with pytest.raises(Unavailable, match="is a drop-in of systemd, which does not run on this host"):
        memlock.require(pools.host, requests)
