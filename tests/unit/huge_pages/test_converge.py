# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools as wanted, and back, on a host of files with a kernel that grants what a test allows it to."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mshare import files
from mshare.errors import Conflict, MshareError, Unavailable
from mshare.huge_pages import before
from mshare.huge_pages.converge import Around, absent, present
from mshare.huge_pages.result import Result
from mshare.huge_pages.spec import make
from mshare.services import systemd
from mshare.survey.record import from_fields
from mshare.units import GIB, MIB
from rig import killed, surveys
from rig.faults import fail_at
from rig.pools import FakeKernel, Pools

SYSCTL = "/etc/sysctl.d/60-mshare-huge-pages.conf"
TMPFILES = "/etc/tmpfiles.d/60-mshare-huge-pages.conf"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root: root only")


class Machine:
    """A host of files, and runs on it."""

    def __init__(self, root: Path, **fields: Any) -> None:
        self.pools = Pools(root, **fields)
        self.kernel = FakeKernel(self.pools.host, files=self.pools)
        self.instances: list[dict[str, Any]] = []
        self.needs: dict[str, int] = {}
        self.stopped: list[str] = []

    @property
    def around(self) -> Around:
        return Around(
            self.pools.host,
            lambda: from_fields(surveys.survey("db", self.instances)),
            lambda server, page_bytes: self.needs[server.data_directory],
            self.kernel,
            lambda page_bytes, default_bytes, sids: self.stopped,
        )

    def present(self, *pages: dict[str, Any], check: bool = False, **options: Any) -> Result:
        return present(make(pages, **options), check=check, around=self.around)

    def absent(self, check: bool = False) -> Result:
        return absent(check=check, around=self.around)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return make_machine(tmp_path, monkeypatch)


def make_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Machine:
    root = tmp_path / "host"
    monkeypatch.setenv("MSHARE_CONFIG_DIR", str(root / "etc/mshare"))
    monkeypatch.setenv("MSHARE_STATE_DIR", str(tmp_path / "run"))
    return Machine(root, **fields)


def test_a_pool_is_made_now_and_for_the_next_boot_and_taken_back(machine: Machine) -> None:
    untouched = machine.pools.snapshot()
    done = machine.present({"wanted": 512})
    assert done.changed
    assert machine.pools.count("nr") == 512
    assert (machine.pools.read(SYSCTL) or "").split("\n")[1:] == ["vm.nr_hugepages = 512", ""]
    assert (done.live.state, done.boot.state) == ("as wanted", "as wanted")
    assert done.pools[0].before == 0
    assert done.pools[0].granted == 512

    again = machine.present({"wanted": 512})
    assert (again.changed, again.actions) == (False, ())
    assert machine.absent().changed
    assert machine.pools.snapshot() == untouched
    assert [*(machine.pools.root / "etc").iterdir()] == []
    assert not machine.absent().changed


def test_a_check_run_tells_all_of_it_and_changes_nothing(machine: Machine) -> None:
    untouched = machine.pools.snapshot()
    done = machine.present({"wanted": "1GiB"}, transparent="never", shm_group="1001", check=True)
    assert machine.pools.snapshot() == untouched
    assert machine.kernel.log == []
    assert done.changed
    assert list(done.actions) == [
        "reserve 512 more of the pool of 2 MiB pages, which then has 512 (1 GiB)",
        "set vm.hugetlb_shm_group to 1001, which is 0",
        "set transparent huge pages to never, which is madvise",
        f"write {SYSCTL}",
        f"write {TMPFILES}",
    ]
    assert done.before["pool of 2 MiB pages"] == 0
    assert done.after["pool of 2 MiB pages"] == 512
    assert (done.live.state, done.boot.state) == ("differs", "differs")


def test_less_than_asked_is_a_failure_and_the_pool_goes_back(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=20)
    machine.kernel.limits[2 * MIB] = 300
    untouched = machine.pools.snapshot()
    done = machine.present({"wanted": 512})
    assert done.failure is not None
    assert (
        "granted 300 of the 512 pages asked for in the pool of 2 MiB pages, 212 pages (424 MiB) too few"
        in done.failure
    )
    assert "it has 20 again, as before, and nothing else was changed" in done.failure
    assert (done.changed, done.live.state, done.live.missing_pages) == (False, "put back", 212)
    assert machine.pools.snapshot() == untouched
    # Asked again after memory was compacted, and not for ever.
    assert 1 <= machine.kernel.log.count("compact") <= 12


def test_compaction_finds_the_rest(machine: Machine) -> None:
    machine.kernel.limits[2 * MIB] = 300
    machine.kernel = replace(machine.kernel, compaction_gains=150)
    assert machine.present({"wanted": 512}).failure is None
    assert machine.pools.count("nr") == 512
    assert "compact" in machine.kernel.log


def test_what_was_granted_can_be_kept(machine: Machine) -> None:
    machine.kernel.limits[2 * MIB] = 300
    done = machine.present({"wanted": 512}, keep_partial=True)
    assert done.failure is not None
    assert "it keeps the 300 it got" in done.failure
    assert (done.changed, done.live.state, done.live.missing_pages) == (True, "partial", 212)
    assert machine.pools.count("nr") == 300
    assert "vm.nr_hugepages = 512" in (machine.pools.read(SYSCTL) or "")
    machine.absent()
    assert machine.pools.count("nr") == 0


def test_pages_in_use_or_reserved_are_not_taken_away(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=100, used=30, resv=20)
    untouched = machine.pools.snapshot()
    with pytest.raises(Conflict, match=r"cannot have 49 pages: 50 of its 100 are in use or reserved"):
        machine.present({"wanted": 49})
    assert machine.pools.snapshot() == untouched
    assert machine.present({"wanted": 50}).changed
    assert machine.pools.count("nr") == 50
    assert machine.pools.count("surplus") == 0


def test_absent_does_not_take_pages_that_a_database_uses_by_now(machine: Machine) -> None:
    machine.present({"wanted": 100})
    machine.pools.set(2 * MIB, nr=100, used=60)
    huge = surveys.segment(120 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)
    machine.instances = [surveys.instance("pg", 0, 4, segments=[huge])]
    with pytest.raises(
        Conflict, match=r"in use or reserved, by pg \(60 pages\); ask for at least 60, or first stop"
    ):
        machine.absent()
    assert machine.pools.count("nr") == 100
    machine.pools.set(2 * MIB, nr=100)
    machine.absent()
    assert machine.pools.count("nr") == 0


def test_what_others_added_since_stays_theirs(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    machine.pools.set(2 * MIB, nr=57)
    machine.absent()
    assert machine.pools.count("nr") == 17


def test_files_that_nobody_has_open_are_named_as_holders(machine: Machine) -> None:
    """DPDK leaves such files behind, which keep their pages."""
    machine.pools.set(2 * MIB, nr=100, used=3)
    mount = "31 23 0:29 / /dev/hugepages rw,relatime shared:15 - hugetlbfs hugetlbfs rw,pagesize=2M\n"
    machine.pools.write("proc/self/mountinfo", mount)
    for name, pages in (("rtemap_0", 2), ("rtemap_1", 1)):
        path = machine.pools.path(f"dev/hugepages/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (pages * 2 * MIB))
    with pytest.raises(Conflict, match=r"by the files /dev/hugepages/rtemap_0 and 1 more \(3 pages\); ask"):
        machine.present({"wanted": 2}, persist=False)
    # What is known to have them all is named alone.
    huge = surveys.segment(6 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)
    machine.instances = [surveys.instance("pg", 0, 4, segments=[huge])]
    with pytest.raises(Conflict, match=r"in use or reserved, by pg \(3 pages\); ask"):
        machine.present({"wanted": 2}, persist=False)


def test_holders_that_are_not_known_are_no_guess(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=100, used=3)
    with pytest.raises(Conflict, match=r"in use or reserved, by something that no survey shows; ask"):
        machine.present({"wanted": 2}, persist=False)


@pytest.mark.parametrize("left", [30, 10, 5, 0])
def test_a_pool_that_others_have_made_smaller_since_stays_so(machine: Machine, left: int) -> None:
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    machine.pools.set(2 * MIB, nr=left)
    foretold = machine.absent(check=True)
    done = machine.absent()
    assert machine.pools.count("nr") == left
    assert machine.pools.read(SYSCTL) is None
    (warning,) = done.warnings
    assert warning == (
        f"the pool of 2 MiB pages stays at {left} pages: it had 50 after the last run, and somebody else, or"
        " a restart of the host, has made it smaller since; before the first run it had 10"
    )
    assert foretold.warnings == done.warnings
    assert (machine.absent().changed, machine.absent().warnings) == (False, ())


@pytest.mark.parametrize(
    ("before", "wanted", "now", "back"),
    [
        # Made smaller here, and later by others as well, or larger again.
        (100, 50, 50, 100),
        (100, 50, 60, 110),
        (100, 50, 40, 40),
        (10, 50, 57, 17),
    ],
)
def test_a_pool_goes_back_by_what_was_changed_here(
    machine: Machine, before: int, wanted: int, now: int, back: int
) -> None:
    machine.pools.set(2 * MIB, nr=before)
    machine.present({"wanted": wanted})
    machine.pools.set(2 * MIB, nr=now)
    machine.absent()
    assert machine.pools.count("nr") == back


def test_a_run_after_others_changed_the_pool_takes_that_for_what_was_there(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    machine.pools.set(2 * MIB, nr=4)
    machine.present({"wanted": 50})
    machine.absent()
    assert machine.pools.count("nr") == 4


def test_auto_does_not_bring_back_pages_that_others_gave_up(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=100)
    machine.instances = [surveys.instance("pg", 20 * MIB, 4, data_directory="/data")]
    machine.needs = {"/data": 112}
    assert machine.present({"wanted": "auto"}).pools[0].granted == 120
    machine.pools.set(2 * MIB, nr=30)
    machine.needs = {"/data": 12}
    assert machine.present({"wanted": "auto"}).pools[0].granted == 30


@pytest.mark.parametrize(
    ("at_boot", "back", "told"),
    [
        # All pages that the file asks for, or those that the kernel had in one piece.
        (50, 10, False),
        (48, 10, False),
        # Nothing asked for them: there are none to give back, and those of others are for others to make.
        (0, 0, True),
        # Something else asked for more.
        (60, 20, False),
    ],
)
def test_what_a_boot_made_of_the_pool_is_given_back_and_never_more(
    machine: Machine, at_boot: int, back: int, told: bool
) -> None:
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    machine.pools.restart(at_boot)
    assert len(machine.absent().warnings) == told
    assert machine.pools.count("nr") == back


@pytest.mark.parametrize("reached", [20, 50])
def test_a_run_that_was_killed_is_undone(machine: Machine, reached: int) -> None:
    """What it had granted is not known, so that all of it is its own."""
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    known = before.load()
    before.save(replace(known, pools=(replace(known.pools[0], granted=None),)))
    machine.pools.set(2 * MIB, nr=reached)
    assert machine.absent().warnings == ()
    assert machine.pools.count("nr") == 10


@pytest.mark.parametrize(
    ("text", "how"), [("# by hand\nvm.nr_hugepages = 3\n", "changed"), (None, "removed")]
)
def test_a_file_that_somebody_changed_since_stays(machine: Machine, text: str | None, how: str) -> None:
    machine.pools.write(SYSCTL, "# before\n")
    machine.present({"wanted": 50})
    if text is None:
        machine.pools.path(SYSCTL).unlink()
    else:
        machine.pools.write(SYSCTL, text)
    done = machine.absent()
    assert done.warnings == (f"{SYSCTL} was {how} by somebody else since it was written, and stays so",)
    assert machine.pools.read(SYSCTL) == text
    assert machine.pools.count("nr") == 0
    assert not machine.absent().changed


def test_a_run_for_the_next_boot_only_keeps_what_is_known_of_the_pool(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=10)
    machine.present({"wanted": 50})
    machine.pools.set(2 * MIB, nr=5)
    machine.present({"wanted": 60}, live=False)
    assert "has made it smaller since" in machine.absent().warnings[0]
    assert machine.pools.count("nr") == 5


OVERCOMMIT = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages"


@pytest.mark.parametrize(("overcommit", "refused"), [(75, False), (74, True), (0, True)])
def test_pages_that_were_surplus_before_are_so_again(
    machine: Machine, overcommit: int, refused: bool
) -> None:
    """A server that runs in pages beyond the pool, which vm.nr_overcommit_hugepages allows, keeps them."""
    machine.pools.set(2 * MIB, nr=75, used=75, surplus=75)
    machine.pools.write(OVERCOMMIT, f"{overcommit}\n")
    machine.present({"wanted": 83})
    assert (machine.pools.count("nr"), machine.pools.count("surplus")) == (83, 0)
    machine.pools.write(OVERCOMMIT, f"{overcommit}\n")
    if refused:
        with pytest.raises(Conflict, match="cannot have 0 pages: 75 of its 83 are in use or reserved"):
            machine.absent()
        return
    machine.absent()
    assert (machine.pools.count("nr"), machine.pools.count("surplus")) == (75, 75)


def test_surplus_pages_are_made_permanent_before_they_are_counted(machine: Machine) -> None:
    # Overcommitted pages in use: 10 permanent ones and 15 surplus ones.
    machine.pools.set(2 * MIB, nr=25, used=25, surplus=15)
    done = machine.present({"wanted": 20})
    assert done.failure is None
    assert machine.pools.count("nr") - machine.pools.count("surplus") == 20
    assert machine.pools.count("nr") == 25


def test_more_than_the_share_of_ram_is_refused_with_figures(machine: Machine) -> None:
    with pytest.raises(MshareError) as refused:
        machine.present({"wanted": "12GiB"})
    assert "would take 12 GiB of the 16 GiB of RAM" in str(refused.value)
    assert "at most 11.2 GiB may be taken (share_of_ram_max 0.7)" in str(refused.value)
    assert machine.kernel.log == []


def test_all_page_sizes_count_together(machine: Machine) -> None:
    with pytest.raises(MshareError, match="would take 12 GiB of the 16 GiB"):
        machine.present({"wanted": "6GiB"}, {"size": "1GiB", "wanted": 6})


def test_a_host_with_too_little_memory_is_refused_with_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(tmp_path, monkeypatch, available_bytes=2 * GIB)
    with pytest.raises(MshareError, match=r"would take 4 GiB more, and this host has 2 GiB available"):
        machine.present({"wanted": "4GiB"})
    assert machine.kernel.log == []
    # At the next boot there is more.
    done = machine.present({"wanted": "4GiB"}, live=False)
    assert (done.changed, done.live.state, machine.kernel.log) == (True, "not asked", [])


def test_nodes_have_pools_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(tmp_path, monkeypatch, nodes=2)
    done = machine.present({"wanted": 10, "node": 0}, {"wanted": 30, "node": 1})
    assert [(pool.node, pool.granted) for pool in done.pools] == [(0, 10), (1, 30)]
    assert machine.pools.count("nr") == 40
    text = machine.pools.read(TMPFILES) or ""
    place = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages"
    assert text.split("\n")[1:3] == [f"w {place.format(0)} - - - - 10", f"w {place.format(1)} - - - - 30"]
    assert machine.pools.read(SYSCTL) is None
    assert not machine.present({"wanted": 10, "node": 0}, {"wanted": 30, "node": 1}).changed
    with pytest.raises(Conflict, match="which has the same pages; restore what was there before"):
        machine.present({"wanted": 50})
    machine.absent()
    assert machine.pools.count("nr") == 0


def test_a_reservation_may_be_kept_for_any_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(tmp_path, monkeypatch, nodes=2)
    machine.pools.set(2 * MIB, nr=40, resv=25)
    with pytest.raises(
        Conflict, match=r"20 pages of 2 MiB cannot be taken from NUMA nodes: 25 of the host's 40 free"
    ):
        machine.present({"wanted": 0, "node": 0}, {"wanted": 20, "node": 1})


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ({"size": "16MiB", "wanted": 1}, "no huge pages of 16 MiB; it has those of 2 MiB, 1 GiB"),
        ({"node": 7, "wanted": 1}, "no NUMA node 7 with huge pages; it has node 0"),
    ],
)
def test_what_the_kernel_lacks_is_named(machine: Machine, page: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unavailable, match=reason):
        machine.present(page)


def test_pages_of_1_gib_are_told_for_the_command_line_which_nobody_edits(machine: Machine) -> None:
    done = machine.present({"size": "1GiB", "wanted": 4})
    assert machine.pools.count("nr", GIB) == 4
    assert done.boot.state == "incomplete"
    assert done.boot.kernel_command_line == "hugepagesz=1G hugepages=4"
    assert not (machine.pools.root / "etc/sysctl.d").exists()
    machine.pools.write("proc/cmdline", "ro hugepagesz=1G hugepages=4")
    assert machine.present({"size": "1GiB", "wanted": 4}).boot.state == "as wanted"


OTHERS: list[tuple[str, str, str]] = [
    (
        "etc/sysctl.d/50-admin.conf",
        "vm.nr_hugepages = 64\n",
        "/etc/sysctl.d/50-admin.conf (vm.nr_hugepages = 64), then",
    ),
    ("etc/sysctl.d/97-oracle.conf", "vm/nr_hugepages=64\n", "(ours), then /etc/sysctl.d/97-oracle.conf"),
    ("usr/lib/sysctl.d/97-x.conf", "-vm.nr_hugepages =64\n", "(ours), then /usr/lib/sysctl.d/97-x.conf"),
    ("etc/sysctl.conf", "#\nvm.nr_hugepages_mempolicy=64\n", "(ours), then /etc/sysctl.conf"),
    (
        "proc/cmdline",
        "ro hugepages=64\n",
        "/proc/cmdline (vm.nr_hugepages = 64), then /etc/sysctl.d/60-mshare",
    ),
    ("proc/cmdline", "hugepagesz=2M hugepages=64 hugepagesz=1G hugepages=1\n", "/proc/cmdline"),
    (
        "etc/tmpfiles.d/60-huge-pages.conf",
        "w /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages - - - - 64\n",
        "(ours), then /etc/tmpfiles.d/60-huge-pages.conf",
    ),
    ("etc/rc.local", "echo 64 > /proc/sys/vm/nr_hugepages\n", "(ours), then /etc/rc.local"),
    (
        "usr/lib/tuned/oracle/tuned.conf",
        "[sysctl]\nvm.nr_hugepages = 64\n",
        "/usr/lib/tuned/oracle/tuned.conf",
    ),
    (
        "etc/tuned/oracle/tuned.conf",
        "[sysfs]\n/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages=64\n",
        "(ours), then /etc/tuned/oracle/tuned.conf (vm.nr_hugepages = 64)",
    ),
    ("etc/cron.d/huge", "@reboot root hugeadm --pool-pages-min 2MB:64\n", "(ours), then /etc/cron.d/huge"),
    (
        "etc/systemd/system/hugeadm.service",
        "ExecStart=/usr/bin/hugeadm --pool-pages-min=DEFAULT:64 --thp-never\n",
        "(ours), then /etc/systemd/system/hugeadm.service (vm.nr_hugepages = 64)",
    ),
    (
        "etc/systemd/system/qemu.service.d/pages.conf",
        "[Service]\nExecStartPre=+/sbin/sysctl vm.nr_hugepages=64\n",
        "(ours), then /etc/systemd/system/qemu.service.d/pages.conf",
    ),
    (
        "etc/sysfs.d/pages.conf",
        "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages = 64\n",
        "(ours), then /etc/sysfs.d/pages.conf (vm.nr_hugepages = 64)",
    ),
    ("etc/dpdk/dpdk.conf", "NR_2M_PAGES=64\n", "(ours), then /etc/dpdk/dpdk.conf (vm.nr_hugepages = 64)"),
]


@pytest.mark.parametrize(("path", "text", "order"), OTHERS, ids=[path for path, *__ in OTHERS])
def test_others_that_set_it_at_boot_are_a_conflict(
    machine: Machine, path: str, text: str, order: str
) -> None:
    machine.pools.write("etc/tuned/active_profile", "oracle\n")
    machine.pools.write(path, text)
    untouched = machine.pools.snapshot()
    with pytest.raises(Conflict) as refused:
        machine.present({"wanted": 512})
    assert order in str(refused.value)
    assert "persist: false" in str(refused.value)
    assert machine.pools.snapshot() == untouched
    done = machine.present({"wanted": 512}, persist=False)
    assert (machine.pools.count("nr"), done.boot.state) == (512, "not asked")
    assert machine.pools.read(SYSCTL) is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "etc/sysctl.d/50-admin.conf",
            "# vm.nr_hugepages = 64\n; vm.nr_hugepages = 1\nvm.nr_overcommit_hugepages = 5\n",
        ),
        ("etc/sysctl.d/50-admin.conf", "vm.nr_hugepages = 512\n"),
        ("etc/sysctl.d/50-admin.txt", "vm.nr_hugepages = 64\n"),
        ("usr/lib/tuned/other/tuned.conf", "[sysctl]\nvm.nr_hugepages = 64\n"),
        ("proc/cmdline", "hugepagesz=1G hugepages=2\n"),
        ("etc/rc.local", "hugeadm --pool-pages-min 1GB:2 --create-mounts\n"),
        ("etc/rc.local", "#hugeadm --pool-pages-min 2MB:64\nhugeadm --pool-list\n"),
        ("etc/dpdk/dpdk.conf", "NR_2M_PAGES=0\nNR_1G_PAGES=4\n"),
        ("etc/sysfs.conf", "kernel/mm/transparent_hugepage/enabled = never\nmode power/state = 0660\n"),
    ],
)
def test_what_sets_the_same_or_something_else_is_no_conflict(machine: Machine, path: str, text: str) -> None:
    machine.pools.write(path, text)
    assert machine.present({"wanted": 512}).changed


def test_a_file_in_etc_hides_one_of_the_same_name(machine: Machine) -> None:
    machine.pools.write("usr/lib/sysctl.d/50-x.conf", "vm.nr_hugepages = 64\n")
    machine.pools.write("etc/sysctl.d/50-x.conf", "")
    assert machine.present({"wanted": 512}).changed


def test_what_sets_the_whole_pool_undoes_that_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(tmp_path, monkeypatch, nodes=2)
    machine.pools.write("etc/sysctl.conf", "vm.nr_hugepages = 10\n")
    with pytest.raises(
        Conflict, match=r"10 pages in the pool of 2 MiB pages on NUMA node 1 is wanted at boot"
    ):
        machine.present({"wanted": 10, "node": 1})


def test_group_and_transparent_pages_only_when_asked_for_and_back(machine: Machine) -> None:
    untouched = machine.pools.snapshot()
    machine.present({"wanted": 8})
    assert machine.pools.read("proc/sys/vm/hugetlb_shm_group") == "0\n"
    machine.present({"wanted": 8}, shm_group="1001", transparent="never")
    assert machine.pools.read("proc/sys/vm/hugetlb_shm_group") == "1001"
    assert machine.pools.read("sys/kernel/mm/transparent_hugepage/enabled") == "never"
    assert "vm.hugetlb_shm_group = 1001" in (machine.pools.read(SYSCTL) or "")
    # What is no longer asked for goes back.
    done = machine.present({"wanted": 8})
    assert "set transparent huge pages to madvise, which is never" in done.actions
    assert machine.pools.read("proc/sys/vm/hugetlb_shm_group") == "0"
    assert machine.pools.read(TMPFILES) is None
    machine.absent()
    assert machine.pools.snapshot().keys() == untouched.keys()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/sysfs.conf", "kernel/mm/transparent_hugepage/enabled = always\n"),
        ("etc/rc.local", "hugeadm --thp-always\n"),
        ("etc/tuned/db/tuned.conf", "[sysfs]\n/sys/kernel/mm/transparent_hugepage/enabled=always\n"),
        ("etc/tuned/db/tuned.conf", "[vm]\ntransparent_hugepages=always\n"),
        (
            "etc/systemd/system/thp.service",
            "ExecStart=/bin/sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled'\n",
        ),
        ("proc/cmdline", "transparent_hugepage=always\n"),
    ],
)
def test_another_mode_of_transparent_pages_at_boot_is_a_conflict(
    machine: Machine, path: str, text: str
) -> None:
    machine.pools.write("etc/tuned/active_profile", "db\n")
    machine.pools.write(path, text)
    untouched = machine.pools.snapshot()
    with pytest.raises(Conflict, match=rf"enabled = never is wanted at boot.*/{path} ") as refused:
        machine.present(transparent="never")
    assert "enabled = always)" in str(refused.value)
    assert machine.pools.snapshot() == untouched


def test_the_group_of_somebody_else_keeps_its_huge_pages(machine: Machine) -> None:
    """The kernel has one group: an Oracle would not start any more after another took its place."""
    machine.pools.write("proc/sys/vm/hugetlb_shm_group", "54322\n")
    untouched = machine.pools.snapshot()
    with pytest.raises(Conflict) as refused:
        machine.present({"wanted": 8}, shm_group="0054")
    assert str(refused.value).startswith(
        "vm.hugetlb_shm_group is 54322 (a group without a name), which somebody else has set, and 54 ("
    )
    assert machine.pools.snapshot() == untouched
    assert machine.present({"wanted": 8}, shm_group="54322").changed
    machine.pools.write("proc/sys/vm/hugetlb_shm_group", "0\n")
    assert machine.present({"wanted": 8}, shm_group="1001").changed
    assert machine.present({"wanted": 8}, shm_group="1002").changed
    machine.absent()
    assert machine.pools.read("proc/sys/vm/hugetlb_shm_group") == "0"


BUDDIES = "Node 0, zone   Normal   900 800 700 600 500 400 300 200 100 %d 0\n"


@pytest.mark.parametrize(("blocks", "told"), [(511, True), (512, False)])
def test_fragmented_memory_is_told_before_anything_changes(machine: Machine, blocks: int, told: bool) -> None:
    machine.pools.write("proc/buddyinfo", BUDDIES % blocks)
    untouched = machine.pools.snapshot()
    warnings = machine.present({"wanted": 512}, check=True).warnings
    assert machine.pools.snapshot() == untouched
    assert [text.partition(";")[0] for text in warnings] == told * [
        "1 GiB more are to be reserved, and 1022 MiB of the free memory are in blocks of 2 MiB or more"
        " (/proc/buddyinfo, measured)"
    ]
    # Once it is done, it is of no interest any more.
    assert machine.present({"wanted": 512}).warnings == ()


def test_pages_of_1_gib_are_divided_among_nodes_and_told_for_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(tmp_path, monkeypatch, nodes=2)
    wanted = [{"size": "1GiB", "node": node, "wanted": node + 1} for node in (0, 1)]
    small = [{"node": node, "wanted": 16} for node in (0, 1)]
    machine.pools.write("proc/cmdline", "ro hugepagesz=1G hugepages=0:1\n")
    command_line = machine.pools.read("proc/cmdline")
    done = machine.present(*small, *wanted)
    assert [machine.pools.count("nr", GIB, node) for node in (0, 1)] == [1, 2]
    assert [machine.pools.count("nr", 2 * MIB, node) for node in (0, 1)] == [16, 16]
    assert done.boot.kernel_command_line == "hugepagesz=1G hugepages=0:1,1:2"
    assert machine.pools.read("proc/cmdline") == command_line
    # Pages of 2 MiB have a file, one line for each node.
    lines = (machine.pools.read(TMPFILES) or "").splitlines()
    assert [line.split()[1].split("/")[5] for line in lines if line.startswith("w ")] == ["node0", "node1"]
    machine.absent()
    assert [machine.pools.count("nr", GIB, node) for node in (0, 1)] == [0, 0]


def test_a_setting_that_somebody_changed_since_stays(machine: Machine) -> None:
    machine.present(transparent="never")
    machine.pools.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n")
    done = machine.absent()
    assert machine.pools.read("sys/kernel/mm/transparent_hugepage/enabled") == "[always] madvise never\n"
    assert any("was set by somebody else" in text for text in done.warnings)


def test_locked_memory_of_a_user(machine: Machine) -> None:
    path = "/etc/security/limits.d/zz-mshare-memlock-nobody.conf"
    machine.pools.write("etc/security/limits.conf", "nobody hard memlock 64\n")
    done = machine.present(memlock=[{"user": "nobody"}])
    assert (machine.pools.read(path) or "").split("\n")[1:3] == [
        "nobody soft memlock unlimited",
        "nobody hard memlock unlimited",
    ]
    assert any("/etc/security/limits.conf limits the locked memory" in text for text in done.warnings)
    machine.present(memlock=[{"user": "nobody", "limit": "1GiB"}])
    assert "nobody hard memlock 1048576" in (machine.pools.read(path) or "")
    machine.absent()
    assert machine.pools.read(path) is None
    with pytest.raises(Unavailable, match="no user nobody-at-all"):
        machine.present(memlock=[{"user": "nobody-at-all"}])


def test_a_file_that_was_there_comes_back_byte_for_byte(machine: Machine) -> None:
    machine.pools.write(SYSCTL, "# by hand\nkernel.sysrq = 1\n")
    machine.pools.path(SYSCTL).chmod(0o640)
    machine.present({"wanted": 8})
    machine.present({"wanted": 16})
    machine.absent()
    assert machine.pools.read(SYSCTL) == "# by hand\nkernel.sysrq = 1\n"
    assert machine.pools.path(SYSCTL).stat().st_mode & 0o777 == 0o640


def test_what_fails_half_way_is_undone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = machine.pools.snapshot()
    from mshare.huge_pages import converge

    def full(host: object, path: str, text: object, access: object) -> None:
        if text is not None and path == TMPFILES:
            raise OSError(28, "No space left on device", path)
        put(host, path, text, access)  # type: ignore[arg-type]

    put: Callable[..., None] = converge._put
    monkeypatch.setattr(converge, "_put", full)
    with pytest.raises(OSError, match="No space left"):
        machine.present({"wanted": 64}, transparent="never")
    now = machine.pools.snapshot()
    place = "sys/kernel/mm/transparent_hugepage/enabled"
    assert now.pop(place) == b"madvise"
    untouched.pop(place)
    assert now == untouched


def test_what_cannot_be_written_down_is_undone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = machine.pools.snapshot()
    from mshare.huge_pages import converge

    # The first one is before anything is changed, the second one after everything was.
    fail_at(monkeypatch, converge.written_down, "save", {2})
    with pytest.raises(OSError, match="Input/output error"):
        machine.present({"wanted": 64}, transparent="never")
    now = machine.pools.snapshot()
    place = "sys/kernel/mm/transparent_hugepage/enabled"
    assert now.pop(place) == b"madvise"
    untouched.pop(place)
    assert now == untouched


def test_what_is_written_down_survives_and_damage_is_told(machine: Machine) -> None:
    machine.present({"wanted": 8})
    path = Path(before.file_path())
    assert json.loads(path.read_text())["pools"] == [
        {"page_bytes": 2 * MIB, "node": None, "before": 0, "wanted": 8, "granted": 8, "boot_id": "first"}
    ]
    path.write_text('{"schema_version": 1, "pools": [{}]}')
    with pytest.raises(MshareError, match=r"has no field pools\[0\].page_bytes; move it away"):
        machine.absent()
    path.write_text('{"schema_version": 99}')
    with pytest.raises(Conflict, match="schema_version 99 of another release"):
        machine.absent()


def test_auto_is_what_instances_need_what_others_hold_and_spare(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=40, used=25, resv=5)
    huge = surveys.segment(20 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)
    machine.instances = [
        surveys.instance("pg one", 0, 4, segments=[huge], data_directory="/data/one"),
        surveys.instance("pg two", 100 * MIB, 4, data_directory="/data/two"),
        surveys.instance("pg off", 100 * MIB, 4, data_directory="/data/off", huge_pages_requested="off"),
        surveys.instance("workers", 64 * MIB, 4, kind="python"),
    ]
    machine.needs = {"/data/one": 12, "/data/two": 60, "/data/off": 50}
    done = machine.present({"wanted": "auto"}, check=True)
    assert [(term.what, term.pages, term.kind) for term in done.pools[0].formula] == [
        ("pg one", 12, "configured"),
        ("pg two", 60, "configured"),
        ("pg off", 0, "configured"),
        ("pages that others hold", 20, "measured"),
        ("spare", 8, "requested"),
    ]
    assert done.pools[0].wanted == 100
    # The same after the servers were restarted into the pool.
    machine.pools.set(2 * MIB, nr=100, used=92)
    machine.instances[1]["segments"] = [surveys.segment(120 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)]
    machine.instances[0]["segments"] = [surveys.segment(24 * MIB, 4, kind="hugetlb", page_bytes=2 * MIB)]
    assert machine.present({"wanted": "auto"}, check=True).pools[0].wanted == 100


def test_auto_tells_what_it_does_not_count_because_it_does_not_run(machine: Machine) -> None:
    machine.stopped = ["PostgreSQL cluster 15-off does not run"]
    machine.instances = [surveys.instance("pg", 20 * MIB, 4, data_directory="/data")]
    machine.needs = {"/data": 12}
    assert machine.present({"wanted": "auto"}, check=True).warnings == (
        "PostgreSQL cluster 15-off does not run",
    )
    # Who gives a number, or names what is counted, has chosen; nobody else is told of it.
    assert machine.present({"wanted": 20}, check=True).warnings == ()
    assert machine.present({"wanted": "auto"}, instances=["pg"], check=True).warnings == ()
    assert machine.absent().warnings == ()


def test_who_may_not_read_what_was_there_before_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.present({"wanted": 8})

    def denied(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(before.record.files, "read_bytes", denied)
    with pytest.raises(
        Unavailable, match=r"huge-pages.json has what was there before, and may be read by root"
    ):
        machine.present({"wanted": 8}, check=True)


def test_the_limit_of_a_unit_is_read_again_by_systemd(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "ask", lambda *words: "loaded")
    monkeypatch.setattr(systemd, "systemctl", lambda *words: called.append(words))
    untouched = machine.pools.snapshot()
    done = machine.present(memlock=[{"unit": "db.service"}])
    path = "/etc/systemd/system/db.service.d/zz-mshare-memlock.conf"
    assert "LimitMEMLOCK=infinity" in (machine.pools.read(path) or "")
    assert done.warnings == (
        "the limit of locked memory of unit db.service takes effect when it is restarted",
    )
    assert machine.present(memlock=[{"unit": "db.service"}]).warnings == ()
    machine.absent()
    assert machine.pools.snapshot() == untouched
    assert not machine.pools.path(path).parent.exists()
    assert called == [("daemon-reload",)] * 2


def test_another_group_at_boot_is_a_conflict(machine: Machine) -> None:
    machine.pools.write("etc/sysctl.d/99-x.conf", "vm.hugetlb_shm_group = 5\n")
    with pytest.raises(Conflict, match=r"vm.hugetlb_shm_group = 1001 is wanted at boot"):
        machine.present({"wanted": 8}, shm_group="1001")


def test_auto_takes_no_free_pages_that_others_reserved(machine: Machine) -> None:
    machine.pools.set(2 * MIB, nr=100)
    machine.instances = [surveys.instance("pg", 20 * MIB, 4, data_directory="/data")]
    machine.needs = {"/data": 12}
    done = machine.present({"wanted": "auto"})
    assert (done.pools[0].wanted, done.pools[0].granted, machine.kernel.log) == (100, 100, [])
    assert done.pools[0].formula[-1].what == "free pages that were there before"
    assert done.pools[0].formula[-1].pages == 80
    # What mshare itself reserved is given back when it is no longer needed, and no more than that.
    machine.needs = {"/data": 200}
    assert machine.present({"wanted": "auto"}).pools[0].granted == 208
    machine.needs = {"/data": 150}
    assert machine.present({"wanted": "auto"}).pools[0].granted == 158
    machine.needs = {"/data": 12}
    assert machine.present({"wanted": "auto"}).pools[0].granted == 100
    # Others reserve more meanwhile.
    machine.pools.set(2 * MIB, nr=130)
    assert machine.present({"wanted": "auto"}).pools[0].wanted == 130


# -- runs that were killed


WANTED: dict[str, Any] = {"transparent": "never", "memlock": [{"user": pwd.getpwuid(0).pw_name}]}


class KernelAtOnce(FakeKernel):
    def set_pages(self, page_bytes: int, node: int | None, count: int) -> None:
        with killed.at_once("set_pages"):
            super().set_pages(page_bytes, node, count)

    def write(self, path: str, text: str) -> None:
        with killed.at_once("write"):
            super().write(path, text)


@pytest.fixture
def ordinary(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """With the folders that every host has, and a disk that is fast."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    machine.kernel = KernelAtOnce(machine.pools.host, files=machine.pools)
    (machine.pools.root / "etc/security").mkdir(parents=True)
    # A setting that was put back is written as this kernel's double keeps it.
    machine.present({"wanted": 512}, **WANTED)
    machine.absent()
    return machine


def everything(machine: Machine) -> dict[str, bytes | None]:
    """Files, and directories as well."""
    top = machine.pools.root
    return {**{str(path.relative_to(top)): None for path in top.rglob("*")}, **machine.pools.snapshot()}


def require_nothing(machine: Machine, untouched: dict[str, bytes | None]) -> None:
    """That an absent run leaves nothing, whatever there was, and the next one has nothing to do."""
    machine.absent()
    assert everything(machine) == untouched
    assert not machine.absent().changed


def test_present_that_is_killed_anywhere_is_completed_or_undone(ordinary: Machine) -> None:
    """At every second call: undone, and before that completed after every second one of these."""
    machine = ordinary
    untouched = everything(machine)
    machine.present({"wanted": 512}, **WANTED)
    done = everything(machine)
    require_nothing(machine, untouched)
    calls = []
    for call in killed.at_each_call(lambda: machine.present({"wanted": 512}, **WANTED), step=2):
        calls.append(call)
        if len(calls) % 2:
            machine.present({"wanted": 512}, **WANTED)
            assert everything(machine) == done, call
            assert not machine.present({"wanted": 512}, **WANTED).changed, call
        require_nothing(machine, untouched)
    assert len(calls) > 20
    # The one that was not killed.
    require_nothing(machine, untouched)


def test_absent_that_is_killed_anywhere_is_completed(ordinary: Machine) -> None:
    machine = ordinary
    untouched = everything(machine)
    machine.present({"wanted": 512}, **WANTED)
    calls = []
    for call in killed.at_each_call(machine.absent):
        calls.append(call)
        require_nothing(machine, untouched)
        machine.present({"wanted": 512}, **WANTED)
    assert len(calls) > 10
    require_nothing(machine, untouched)


def test_what_a_run_that_was_killed_at_once_left_is_told_before_it_is_removed(machine: Machine) -> None:
    """Of its record there is a beginning, and no more."""
    record = before.file_path()
    left = Path(record).with_name(f".{Path(record).name}.0123456789abcdef.new")
    files.write_text(str(left), "{")
    checked = machine.absent(check=True)
    action = f"remove {record}, which a run that did not end has left"
    assert (checked.changed, checked.actions, left.exists()) == (True, (action,), True)
    assert machine.absent().actions == (action,)
    assert not left.parent.exists()
    assert not machine.absent().changed
