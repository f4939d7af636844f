# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units that the library writes, read by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mshare.mount import units as mount_units
from mshare.mount.spec import MountSpec
from mshare.region import units as region_units
from mshare.region.spec import RegionSpec
from mshare.services import systemd

REGION = RegionSpec("sga", (), memory_max_bytes=310 << 30, before=("postgresql.service",))
IN_DIRECTORY = RegionSpec("sales/sga", (), memory_max_bytes=1 << 30)
MOUNTS = {
    "kernel": MountSpec("kernel", "/sys/fs/mshare"),
    "simulated": MountSpec("simulated", "/run/msharefs", size_bytes=8 << 30),
    "with a dash": MountSpec("simulated", "/srv/mem-shared"),
}
INSTANCES = (
    "mshare-region@sga.service",
    "mshare-clients@sga.service",
    "mshare-collapse@var-lib-postgresql-15-main.service",
    "mshare-mounts.target",
    "mshare-sga.slice",
    "mshare-region@sales:sga.service",
    "mshare-clients@sales:sga.service",
    "mshare-sales:sga.slice",
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All units of a host with one region, in a folder of their own; the program they start stands in."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    files = {**systemd.templates("/bin/true"), **region_units.region_files(REGION)}
    files.update(region_units.region_files(IN_DIRECTORY))
    for spec in MOUNTS.values():
        files.update(mount_units.mount_file(spec))
    for path, text in files.items():
        place = tmp_path / Path(path).relative_to(systemd.UNIT_DIRECTORY)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    return tmp_path


def verify(units: Path, *names: str) -> str:
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            "--recursive-errors=one",
            *(str(units / name) for name in names),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # What other units of the machine lack is not ours.
    return "\n".join(line for line in done.stdout.splitlines() if str(units) in line or "mshare" in line)


def test_units_are_sound(units: Path) -> None:
    assert verify(units, *INSTANCES) == ""


@pytest.mark.parametrize("spec", MOUNTS.values(), ids=MOUNTS)
def test_mount_units_are_sound(units: Path, spec: MountSpec) -> None:
    (path,) = mount_units.mount_file(spec)
    name = Path(path).name
    # systemd refuses a mount unit whose name is not its escaped path.
    assert verify(units, name, f"mshare-msharefs@{name.removesuffix('.mount')}.service") == ""


def test_a_mistake_would_be_found(units: Path) -> None:
    (units / "mshare-mounts.target").write_text("[Unit]\nDescription=All\nNoSuchKey=1\n")
    assert "NoSuchKey" in verify(units, "mshare-mounts.target")


def test_the_limit_and_the_database_are_in_the_units(units: Path) -> None:
    assert f"MemoryMax={310 << 30}\n" in (units / "mshare-sga.slice").read_text()
    drop_in = units / "mshare-region@sga.service.d/dbmem.conf"
    assert "Before=postgresql.service\n" in drop_in.read_text()
