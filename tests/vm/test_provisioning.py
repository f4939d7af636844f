# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/postgresql.yml under a real systemd: PostgreSQL from Debian's packages, after its region."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vm.guest import NAME, REPOSITORY, Guest

EXAMPLE = str(REPOSITORY / "examples" / "postgresql.yml")
MIB = 1 << 20
SIZE, LIMIT = 256 * MIB, 320 * MIB
VARIABLES = {"region_size": "256MiB", "region_memory_max": "320MiB"}
REGION, CLIENTS = "mshare-region@postgresql.service", "mshare-clients@postgresql.service"
SERVER = "postgresql@15-main.service"
SLICE = "/sys/fs/cgroup/mshare.slice/mshare-postgresql.slice"


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
def rebooted(provisioned: Guest) -> Guest:
    provisioned.reboot()
    return provisioned


def moments(guest: Guest, event: str) -> dict[str, int]:
    """When something happened to the units, in microseconds since the boot."""
    units = guest.units(REGION, CLIENTS, SERVER)
    return {name: int(unit[f"{event}TimestampMonotonic"]) for name, unit in units.items()}


def require_all_is_up(guest: Guest) -> None:
    states = {name: unit["ActiveState"] for name, unit in guest.units(REGION, CLIENTS, SERVER).items()}
    assert states == dict.fromkeys((REGION, CLIENTS, SERVER), "active")
    region = guest.region("postgresql")
    assert region is not None
    assert (region["health"], region["clients"]["attached"]) == ("healthy", 10)
    assert guest.do("stat -c '%a %U %G' /run/msharefs/postgresql") == "660 root postgres"
    assert guest.do("cd / && runuser -u postgres -- psql -Atc 'select 6 * 7'") == "42"


def test_a_check_run_passes_on_a_host_that_has_neither_and_does_nothing(guest: Guest, inventory: str) -> None:
    guest.play(EXAMPLE, "-i", inventory, "--check", **VARIABLES)
    assert guest.traces() == []
    assert guest.run("command -v psql").returncode != 0


def test_server_and_region_run(provisioned: Guest) -> None:
    require_all_is_up(provisioned)


def test_the_regions_memory_is_charged_to_its_slice_and_limited(provisioned: Guest) -> None:
    limit, charged = map(int, provisioned.do(f"cat {SLICE}/memory.max {SLICE}/memory.current").split())
    assert limit == LIMIT
    assert SIZE <= charged <= LIMIT
    assert SERVER in provisioned.do("cat /proc/$(pgrep -o postgres)/cgroup")


def test_a_second_run_changes_nothing(provisioned: Guest, inventory: str) -> None:
    output = provisioned.play(EXAMPLE, "-i", inventory, **VARIABLES)
    assert re.search(r"changed=0\b", output), output


def test_after_a_reboot_the_server_starts_when_its_region_is_there(rebooted: Guest) -> None:
    rebooted.eventually(lambda: rebooted.run("pg_isready --quiet").returncode == 0, "the server")
    require_all_is_up(rebooted)
    ready, begun = moments(rebooted, "ActiveEnter"), moments(rebooted, "InactiveExit")
    assert ready[REGION] <= begun[SERVER]
    assert ready[REGION] <= begun[CLIENTS]


def test_the_server_is_stopped_before_its_region(rebooted: Guest) -> None:
    # What a shutdown does: both in one transaction, in whichever order they are named.
    rebooted.do(f"systemctl stop {REGION} {SERVER}")
    ended, ending = moments(rebooted, "InactiveEnter"), moments(rebooted, "ActiveExit")
    assert ended[SERVER] <= ending[REGION]
    assert ended[CLIENTS] <= ended[REGION]


def test_without_the_region_the_server_brings_it_along(rebooted: Guest) -> None:
    rebooted.do(f"systemctl start {SERVER} {CLIENTS}")
    require_all_is_up(rebooted)
