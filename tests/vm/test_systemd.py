# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A deployment under a real systemd: its units, a reboot, deaths, limits, and its end.

One story on one guest, told in the order of this file: what a command costs there is seconds, and what
a playbook costs is most of a minute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm.guest import Guest

COUNT = 20
GIB = 1 << 30
VARIABLES = {
    "mshare_clients_count": COUNT,
    "mshare_region_memory_max": "1GiB",
    "mshare_region_before": ["database.service"],
}
# Stands for what is started after the region.
DATABASE = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true

[Install]
WantedBy=multi-user.target
"""
REGION = "mshare-region@sga.service"
CLIENTS = "mshare-clients@sga.service"
SLICE = "mshare-sga.slice"
# More than none, and little beside the guest's memory.
PAGES = 4
TRANSPARENT = "/sys/kernel/mm/transparent_hugepage/enabled"
# The second has a name that systemd escapes.
OTHER_ROOT = "/srv/mem-shared"
MOUNTS = {"/run/msharefs": "run-msharefs", OTHER_ROOT: "srv-mem\\x2dshared"}
RUNNING = [
    *(f"{escaped}.mount" for escaped in MOUNTS.values()),
    *(f"mshare-msharefs@{escaped}.service" for escaped in MOUNTS.values()),
    "mshare-mounts.target",
    REGION,
    CLIENTS,
]
FILES = [*RUNNING, SLICE]


def quoted(*units: str) -> str:
    return " ".join(f"'{unit}'" for unit in units)


def attached(guest: Guest) -> int:
    """How many clients are counted as attached."""
    region = guest.region("sga")
    assert region is not None
    return (region["clients"] or {}).get("attached", 0)


def settled(guest: Guest) -> None:
    """Wait for what was started without being waited for."""
    guest.eventually(lambda: guest.do("systemctl list-jobs --no-legend") == "", "systemd")


def require_all_is_up(guest: Guest) -> None:
    states = {name: unit["ActiveState"] for name, unit in guest.units(quoted(*FILES)).items()}
    assert states == dict.fromkeys(FILES, "active")
    assert guest.do("systemctl --failed --no-legend") == ""
    region = guest.region("sga")
    assert region is not None
    assert region["health"] == "healthy"
    assert region["mode"] == "0660"
    assert region["clients"]["attached"] == COUNT
    assert guest.do("stat -c '%a %G' /run/msharefs /srv/mem-shared") == "1770 mshare\n1770 root"


@pytest.fixture(scope="module")
def deployed(guest: Guest) -> Guest:
    guest.write("/etc/systemd/system/database.service", DATABASE)
    guest.do("systemctl enable --now --quiet database")
    guest.playbook("deploy", **VARIABLES)
    guest.do(f"mshare mount --backend simulated --root {OTHER_ROOT}")
    # Of the two files that set them at boot, each has one of these.
    guest.do(f"mshare huge-pages --want {PAGES} --transparent never")
    settled(guest)
    return guest


@pytest.fixture(scope="module")
def rebooted(deployed: Guest) -> Guest:
    deployed.reboot()
    return deployed


def test_a_check_run_says_what_it_would_do_and_does_nothing(guest):
    output = guest.playbook("deploy", "--check", "--diff", **VARIABLES)
    assert output.count("\n+state: present\n") == 4  # The library, the mount, the region, the clients.
    assert guest.traces() == []


def test_a_deployment_is_kept_by_systemd(deployed):
    require_all_is_up(deployed)
    assert deployed.run(f"systemd-analyze verify --man=no {quoted(*FILES)}").stdout == ""
    enabled = [name for name in FILES if name not in (SLICE, "mshare-mounts.target")]
    assert deployed.do(f"systemctl is-enabled {quoted(*enabled)}").split() == ["enabled"] * len(enabled)


def test_the_owner_is_limited_protected_and_ordered(deployed):
    owner = deployed.units(REGION)[REGION]
    assert owner["Slice"] == SLICE
    assert owner["StatusText"] == "region sga is ready"
    assert {"database.service", CLIENTS} <= set(owner["Before"].split())
    assert "mshare-mounts.target" in owner["After"].split()
    score, limit, charged = deployed.do(
        f"cat /proc/{owner['MainPID']}/oom_score_adj"
        f" /sys/fs/cgroup/mshare.slice/{SLICE}/memory.max /sys/fs/cgroup/mshare.slice/{SLICE}/memory.current"
    ).split()
    assert (score, limit) == ("-900", str(GIB))
    # The pattern that the owner wrote.
    assert int(charged) > 16 << 20


def test_after_a_reboot_everything_is_back_in_its_order(rebooted):
    require_all_is_up(rebooted)
    order = ["run-msharefs.mount", "mshare-msharefs@run-msharefs.service", "mshare-mounts.target", REGION]
    units = rebooted.units(quoted(*order, CLIENTS, "database.service"))
    active = {name: int(unit["ActiveEnterTimestampMonotonic"]) for name, unit in units.items()}
    assert sorted(order, key=active.__getitem__) == order
    # Those two wait for the region, not for one another.
    for name in (CLIENTS, "database.service"):
        assert int(units[name]["InactiveExitTimestampMonotonic"]) >= active[REGION]


def test_live_and_boot_state_are_reported_and_nothing_is_left_to_do(rebooted):
    output = rebooted.playbook("deploy", **VARIABLES)
    assert re.search(r"changed=0\b", output), output
    region = rebooted.module(
        "mshare_region",
        name="sga",
        state="present",
        size="300GiB",
        overcommit=True,
        pattern=True,
        mode="0660",
        group="mshare",
        memory_max="1GiB",
        before=["database.service"],
    )
    assert not region["changed"], region["actions"]
    assert region["region"]["health"] == "healthy"
    assert region["boot"] == {"managed": True, "enabled": True, "reason": None}


def huge_pages(guest: Guest) -> tuple[int, str]:
    """The pool's pages, and the mode of transparent huge pages, as the kernel has them."""
    count, modes = guest.do(f"cat /proc/sys/vm/nr_hugepages {TRANSPARENT}").splitlines()
    return int(count), modes[modes.index("[") + 1 : modes.index("]")]


def test_huge_pages_are_there_again_after_a_reboot(rebooted):
    """By systemd's own services, which read the files at boot."""
    assert huge_pages(rebooted) == (PAGES, "never")
    kept = rebooted.module("mshare_huge_pages", pages=[{"wanted": PAGES}], transparent="never")
    assert (kept["changed"], kept["live"]["state"], kept["boot"]["state"]) == (
        False,
        "as wanted",
        "as wanted",
    )
    assert [pool["granted"] for pool in kept["pools"]] == [PAGES]


def test_a_pool_that_fragmented_memory_has_no_room_for_goes_back(rebooted):
    """Half of the available memory is asked for, and a quarter of it is left in blocks as large as a page."""
    available_mib = int(rebooted.do("awk '/^MemAvailable/ {print $2}' /proc/meminfo")) >> 10
    wanted = available_mib // 4
    rebooted.write("/root/fragment.py", (Path(__file__).parent / "fragment.py").read_text())
    rebooted.do(
        "systemd-run --quiet --unit=fragment --property=Type=forking --property=TimeoutStartSec=infinity"
        f" python3 /root/fragment.py {available_mib // 4}"
    )
    command = f"mshare huge-pages --want {wanted} --transparent never --json"
    foretold = json.loads(rebooted.do(f"{command} --check"))
    assert any("of the free memory are in blocks of 2 MiB or more" in text for text in foretold["warnings"])

    short = rebooted.run(command)
    assert short.returncode == 1, short.stdout
    answer = json.loads(short.stdout)
    missing = answer["live"]["missing_pages"]
    assert (answer["live"]["state"], answer["changed"]) == ("put back", False)
    assert 0 < missing < wanted - PAGES
    assert (
        f"granted {wanted - missing:,} of the {wanted:,} pages asked for in the pool of 2 MiB pages,"
        f" {missing:,} page" in answer["error"]["message"]
    )
    assert f"it has {PAGES} again, as before, and nothing else was changed" in answer["error"]["message"]
    assert huge_pages(rebooted) == (PAGES, "never")
    assert f"vm.nr_hugepages = {PAGES}" in rebooted.do("cat /etc/sysctl.d/60-mshare-huge-pages.conf")

    # It was for nothing else: in the same memory, once it is whole again, there is room.
    rebooted.do("systemctl stop fragment && rm /root/fragment.py")
    rebooted.do(command)
    assert huge_pages(rebooted)[0] == wanted


def test_huge_pages_go_back_to_what_the_host_had(rebooted):
    """Those of before the first run, which was in another boot."""
    answer = json.loads(rebooted.do("mshare huge-pages --absent --json"))
    assert answer["warnings"] == []
    assert huge_pages(rebooted) == (0, "always")
    assert rebooted.run("ls /etc/sysctl.d /etc/tmpfiles.d | grep mshare").returncode == 1


def test_a_mount_that_is_gone_is_made_again_with_its_layout(rebooted):
    rebooted.do(f"umount {OTHER_ROOT}")
    assert json.loads(rebooted.do(f"mshare mount --backend simulated --root {OTHER_ROOT} --json"))["changed"]
    rebooted.do(f"mshare umount --root {OTHER_ROOT}")
    assert rebooted.do("systemctl list-units --all --plain --no-legend '*mem*shared*'") == ""


def test_a_restarted_region_has_its_clients_back(rebooted):
    owner = rebooted.units(REGION)[REGION]["MainPID"]
    rebooted.do(f"systemctl restart {REGION}")
    assert rebooted.units(REGION)[REGION]["MainPID"] != owner
    rebooted.eventually(lambda: attached(rebooted) == COUNT, "the clients")
    assert rebooted.region("sga")["clients"]["dead"] == []


def test_a_killed_owner_is_replaced_and_its_clients_are_counted_as_dead(rebooted):
    rebooted.do(f"kill -KILL {rebooted.units(REGION)[REGION]['MainPID']}")
    rebooted.eventually(lambda: rebooted.units(REGION)[REGION]["NRestarts"] == "1", "the owner's restart")
    rebooted.eventually(lambda: rebooted.units(REGION)[REGION]["ActiveState"] == "active", "the region")
    rebooted.eventually(lambda: len(rebooted.region("sga")["clients"]["dead"]) == COUNT, "the clients' death")
    assert rebooted.region("sga")["health"] == "healthy"
    assert attached(rebooted) == 0
    assert "was killed by SIGSEGV, after the region's owner had ended" in rebooted.journal(CLIENTS)

    repaired = rebooted.module("mshare_clients", region="sga", count=COUNT, restart_dead=True)
    assert repaired["changed"]
    assert repaired["clients"]["attached"] == COUNT
    assert repaired["clients"]["dead"] == []


def test_a_killed_launcher_takes_its_clients_along_and_is_seen_to_have_failed(rebooted):
    rebooted.do(f"kill -KILL {rebooted.units(CLIENTS)[CLIENTS]['MainPID']}")
    rebooted.eventually(lambda: rebooted.units(CLIENTS)[CLIENTS]["ActiveState"] == "failed", "the launcher")
    assert attached(rebooted) == 0
    assert rebooted.do("pgrep -fc 'clients [r]un' || true") == "0"
    rebooted.do(f"systemctl start {CLIENTS}")
    assert attached(rebooted) == COUNT


def test_a_region_that_is_stopped_stops_its_clients_first_and_leaves_no_name(rebooted):
    cursor = rebooted.do("journalctl --quiet --no-pager --lines=0 --show-cursor").removeprefix("-- cursor: ")
    rebooted.do(f"systemctl stop {REGION}")
    states = {name: unit["ActiveState"] for name, unit in rebooted.units(quoted(REGION, CLIENTS)).items()}
    assert states == {REGION: "inactive", CLIENTS: "inactive"}
    said = rebooted.do(f"journalctl --no-pager --unit={CLIENTS} --after-cursor={quoted(cursor)}")
    assert "SIGSEGV" not in said
    assert rebooted.do("ls /run/msharefs") == "mshare_info"
    rebooted.do(f"systemctl start {CLIENTS}")
    assert attached(rebooted) == COUNT


@pytest.fixture
def others(rebooted: Guest) -> Iterator[Guest]:
    """Checks that what fails leaves the guest as it was."""
    before = rebooted.traces()
    yield rebooted
    assert rebooted.traces() == before


def test_a_region_beyond_its_tmpfs_is_refused_beforehand(others):
    # More than the half of the memory that the tmpfs has, and less than is free.
    refused = others.run("mshare create big --size 1100MiB --prefault")
    assert refused.returncode == 1
    assert "prefaulting region big needs 1.1 GiB and the tmpfs at /run/msharefs has" in refused.stdout


def test_a_limit_that_cannot_hold_the_region_is_refused_beforehand(others):
    refused = others.run("mshare create big --size 64MiB --prefault --memory-max 64MiB")
    assert refused.returncode == 2
    assert "but memory_max is 64 MiB; raise memory_max" in refused.stdout


def test_an_owner_that_reaches_its_limit_leaves_a_clear_sentence_and_nothing_else(others):
    # A limit that the spec knows nothing of.
    others.do("systemctl set-property --runtime mshare-big.slice MemoryMax=100M")
    refused = others.run("mshare create big --size 512MiB --prefault")
    assert refused.returncode == 1
    others.do("systemctl revert mshare-big.slice")
    assert "the kernel ended it because it reached the memory limit of its slice" in refused.stdout
    # Neither tried again for ever, nor with an effect on others.
    assert others.units("mshare-region@big.service")["mshare-region@big.service"]["ActiveState"] == "inactive"
    assert attached(others) == COUNT


def test_a_teardown_leaves_nothing(rebooted):
    rebooted.playbook("teardown")
    assert rebooted.traces() == []
    assert rebooted.do("systemctl --failed --no-legend") == ""
