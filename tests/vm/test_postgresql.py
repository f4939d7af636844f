# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/postgresql.yml under a real systemd: PostgreSQL from Debian's packages in a region, and back.

One story on one guest, told in the order of this file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vm.guest import NAME, REPOSITORY, Guest

EXAMPLE = str(REPOSITORY / "examples" / "postgresql.yml")
MIB = 1 << 20
SIZE, LIMIT = 256 * MIB, 320 * MIB
VARIABLES = {
    "postgresql_shared_buffers": "128MB",
    "region_size": "256MiB",
    "region_memory_max": "320MiB",
    "mshare_postgresql_probes": 2,
    "mshare_msharefs_backend": "simulated",
}
REGION, SERVER = "mshare-region@postgresql.service", "postgresql@15-main.service"
SLICE = "/sys/fs/cgroup/mshare.slice/mshare-postgresql.slice"
PLACE = "/run/msharefs/postgresql"
POSTMASTER = "$(head -1 /var/lib/postgresql/15/main/postmaster.pid)"
AS_POSTGRES = "cd / && runuser -u postgres --"
DUMP = f"{AS_POSTGRES} pg_dumpall | grep -v restrict | sha256sum"
FILL = "create table kept as select n, repeat('x', 1000) from generate_series(1, 10000) n"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The group that the example is for."""
    path: Path = tmp_path_factory.mktemp("inventory") / "databases.ini"
    path.write_text(f"[databases]\n{NAME}\n")
    return str(path)


@pytest.fixture(scope="module")
def provisioned(guest: Guest, inventory: str) -> Guest:
    guest.play(EXAMPLE, "-i", inventory, **VARIABLES)
    return guest


@pytest.fixture(scope="module")
def dump(provisioned: Guest) -> str:
    """What is in the database, which nothing that follows may change."""
    provisioned.do(f'{AS_POSTGRES} psql -qc "{FILL}"')
    return provisioned.do(DUMP)


@pytest.fixture(scope="module")
def rebooted(provisioned: Guest, dump: str) -> Guest:
    provisioned.reboot()
    return provisioned


def moments(guest: Guest, event: str) -> dict[str, int]:
    """When something happened to the units, in microseconds since the boot."""
    units = guest.units(REGION, SERVER)
    return {name: int(unit[f"{event}TimestampMonotonic"]) for name, unit in units.items()}


def process(guest: Guest, unit: str) -> str:
    return guest.units(unit)[unit]["MainPID"]


def is_ready(guest: Guest) -> bool:
    return guest.run("pg_isready --quiet").returncode == 0


def mapped(guest: Guest) -> str:
    """What the server has its memory on, as (inode, path)."""
    return guest.do(f"awk '$6 ~ /msharefs/ {{print $5, $6, $7}}' /proc/{POSTMASTER}/maps | sort -u")


def require_server_is_in_its_region(guest: Guest) -> None:
    guest.eventually(lambda: is_ready(guest), "the server")
    states = {name: unit["ActiveState"] for name, unit in guest.units(REGION, SERVER).items()}
    assert states == dict.fromkeys((REGION, SERVER), "active")
    region = guest.region("postgresql")
    assert region is not None
    assert region["health"] == "healthy"
    # By its number: a region of the same name that is gone would do as well.
    assert mapped(guest) == guest.do(f"stat -c '%i %n' {PLACE}")


def test_a_check_run_passes_on_a_host_that_has_neither_and_does_nothing(guest: Guest, inventory: str) -> None:
    guest.play(EXAMPLE, "-i", inventory, "--check", **VARIABLES)
    assert guest.traces() == []
    assert guest.run("test -e /usr/lib/postgresql/15/bin/postgres").returncode != 0


def test_the_server_runs_in_its_region(provisioned: Guest, dump: str) -> None:
    require_server_is_in_its_region(provisioned)


def test_the_regions_memory_is_charged_to_its_slice_and_limited(provisioned: Guest) -> None:
    limit, charged = map(int, provisioned.do(f"cat {SLICE}/memory.max {SLICE}/memory.current").split())
    assert limit == LIMIT
    assert SIZE <= charged <= LIMIT
    assert SERVER in provisioned.do(f"cat /proc/{POSTMASTER}/cgroup")


def test_after_a_reboot_the_server_starts_when_its_region_is_there(rebooted: Guest) -> None:
    require_server_is_in_its_region(rebooted)
    assert moments(rebooted, "ActiveEnter")[REGION] <= moments(rebooted, "InactiveExit")[SERVER]


def test_a_second_run_changes_nothing(rebooted: Guest, inventory: str) -> None:
    server = process(rebooted, SERVER)
    output = rebooted.play(EXAMPLE, "-i", inventory, **VARIABLES)
    assert re.search(r"changed=0\b", output), output
    assert process(rebooted, SERVER) == server


def test_a_region_that_is_stopped_stops_the_server_first(rebooted: Guest) -> None:
    rebooted.do(f"systemctl stop {REGION}")
    states = {name: unit["ActiveState"] for name, unit in rebooted.units(REGION, SERVER).items()}
    assert states == dict.fromkeys((REGION, SERVER), "inactive")
    assert moments(rebooted, "InactiveEnter")[SERVER] <= moments(rebooted, "ActiveExit")[REGION]


def test_a_server_that_is_started_brings_its_region_along(rebooted: Guest) -> None:
    rebooted.do(f"systemctl start {SERVER}")
    require_server_is_in_its_region(rebooted)


def killed(guest: Guest, command: str) -> None:
    """Run a command that kills the region's owner; the server has to be back with another region."""
    owner, server, memory = process(guest, REGION), process(guest, SERVER), mapped(guest)
    guest.do(command)
    guest.eventually(lambda: process(guest, REGION) not in ("0", owner), "the owner")
    guest.eventually(lambda: process(guest, SERVER) not in ("0", server), "the server")
    require_server_is_in_its_region(guest)
    assert mapped(guest) != memory


def test_a_killed_owner_has_the_server_started_again_in_the_new_region(rebooted: Guest) -> None:
    killed(rebooted, f"kill -KILL {process(rebooted, REGION)}")


def test_a_server_that_dies_with_the_owner_is_started_again_as_well(rebooted: Guest) -> None:
    # What a kernel with mshare does to it. Simulated, it would live on.
    killed(rebooted, f"kill -KILL {process(rebooted, REGION)}; kill -SEGV {POSTMASTER}")


def test_the_way_back(rebooted: Guest, dump: str) -> None:
    assert rebooted.do(DUMP) == dump
    back = {"state": "absent", "restart_ok": True, "probes": 0}
    rebooted.playbook("postgresql", **{f"mshare_postgresql_{name}": value for name, value in back.items()})
    unit = rebooted.units(SERVER)[SERVER]
    assert unit["ActiveState"] == "active"
    assert "DropInPaths" not in unit  # As systemctl shows what is empty.
    assert "mshare" not in rebooted.do(f"cat /proc/{POSTMASTER}/maps")
    assert rebooted.do("grep -rl mshare /etc/postgresql || true") == ""
    assert rebooted.do(DUMP) == dump


def test_nothing_is_left(rebooted: Guest) -> None:
    rebooted.playbook("teardown", mshare_region_name="postgresql")
    assert rebooted.traces() == []
    assert rebooted.do("systemctl --failed --no-legend") == ""
    # The guest is for other stories too.
    rebooted.do("systemctl disable --now --quiet postgresql")
