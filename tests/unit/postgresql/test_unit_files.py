# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a cluster that a plain unit starts, as texts: drop-in, settings, and the including block."""

from __future__ import annotations

from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.postgresql import unit_files
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.managers import units
from mshare.postgresql.managers.units import Unit
from mshare.postgresql.spec import ClusterSpec
from mshare.postgresql.unit_files import Parts
from mshare.services import systemd

UNIT = "postgresql-16.service"
THP = ClusterSpec("thp", start_seconds=610)
PARTS = Parts("# Managed.\n", None, "huge_pages = off\n")
CONFIGURATION = "shared_buffers = 128MB\n#huge_pages = try"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    (tmp_path / "postgresql.conf").write_text(CONFIGURATION)
    described(monkeypatch)
    return Cluster(
        "16",
        "postgresql-16",
        str(tmp_path),
        0,
        0,
        configuration=str(tmp_path),
        programs="/usr/pgsql-16/bin",
        plain_unit=UNIT,
    )


def described(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """What systemd tells of the unit."""
    unit = Unit(UNIT, **fields)  # type: ignore[arg-type]
    monkeypatch.setattr(units, "describe", lambda name: unit)


def drop_in(cluster: Cluster, spec: ClusterSpec = THP, parts: Parts = PARTS) -> str:
    text = unit_files.present(cluster, spec, parts)[unit_files.drop_in_file(cluster)]
    assert text is not None
    return text


def test_three_files_are_written(cluster: Cluster) -> None:
    changes = unit_files.present(cluster, THP, PARTS)
    assert [Path(path).name for path in changes] == [
        "zz-dbmem-mshare.conf",
        "dbmem-mshare.conf",
        "postgresql.conf",
    ]
    assert changes[unit_files.configuration_file(cluster)] == "huge_pages = off\n"


def test_the_block_is_put_once_and_taken_away_to_the_last_byte(cluster: Cluster) -> None:
    first = unit_files.present(cluster, THP, PARTS)[cluster.main]
    assert first is not None
    assert first == CONFIGURATION + (
        "\n# BEGIN dbmem.mshare\ninclude_if_exists = 'dbmem-mshare.conf'\n# END dbmem.mshare\n"
    )
    Path(cluster.main).write_text(first)
    assert unit_files.present(cluster, THP, PARTS)[cluster.main] == first
    assert unit_files.absent(cluster)[cluster.main] == CONFIGURATION


def test_nothing_is_written_back_where_the_configuration_is_gone(cluster: Cluster) -> None:
    Path(cluster.main).unlink()
    assert set(unit_files.absent(cluster).values()) == {None}


def test_the_environment_is_the_library_s_and_that_of_the_unit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(monkeypatch, environment_text="LD_PRELOAD=/opt/jemalloc.so PGDATA=/srv")
    lines = drop_in(cluster).splitlines()
    assert lines[:2] == ["# Managed.", "[Service]"]
    assert f'Environment="LD_PRELOAD={THP.library} /opt/jemalloc.so"' in lines
    assert 'Environment="MSHARE_PRELOAD_PAGES=thp"' in lines
    assert 'Environment="PGCTLTIMEOUT=610"' in lines


def test_what_systemd_would_read_otherwise_is_escaped(cluster: Cluster) -> None:
    odd = ClusterSpec("thp", library='/opt/100%/a"b\\c.so')
    assert r'Environment="LD_PRELOAD=/opt/100%%/a\"b\\c.so"' in drop_in(cluster, odd).splitlines()


@pytest.mark.parametrize(
    ("allowed", "line"),
    [(90.0, True), (610.0, False), (3600.0, False), (None, False)],
)
def test_a_start_may_take_as_long_as_it_needs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, allowed: float | None, line: bool
) -> None:
    described(monkeypatch, start_seconds=allowed)
    assert ("TimeoutStartSec=610" in drop_in(cluster).splitlines()) is line


def test_a_limit_of_our_own_is_kept_up_to_date(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(unit_files.drop_in_file(cluster))
    path.parent.mkdir()
    path.write_text("[Service]\nTimeoutStartSec=9999\n")
    # What systemd shows is our own drop-in's.
    described(monkeypatch, start_seconds=9999.0)
    assert "TimeoutStartSec=610" in drop_in(cluster).splitlines()


def test_a_region_comes_first(cluster: Cluster) -> None:
    parts = Parts("# Managed.\n", ("[Unit]\nWants=x.target\n", "[Service]\nRestart=no\n"), "")
    text = drop_in(cluster, THP, parts)
    assert text.startswith("# Managed.\n[Unit]\nWants=x.target\n\n[Service]\nRestart=no\n\n[Service]\n")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "MSHARE_PRELOAD_PAGES"])
def test_an_environment_file_that_would_win_is_a_conflict(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "sysconfig"
    file.write_text(f"# ours\n{name}=x\n")
    described(monkeypatch, environment_files=(str(file),))
    with pytest.raises(Conflict, match=f"the EnvironmentFile of unit {UNIT}, sets {name}, which would hide"):
        drop_in(cluster)


def test_an_environment_file_with_other_variables_is_left_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sysconfig").write_text("PGPORT=5433\n")
    described(monkeypatch, environment_files=(str(tmp_path / "sysconfig"), str(tmp_path / "missing")))
    assert "LD_PRELOAD" in drop_in(cluster)


def test_for_huge_pages_of_its_own_there_is_no_environment(cluster: Cluster) -> None:
    changes = unit_files.native(cluster, "huge_pages = on\n")
    assert changes[unit_files.drop_in_file(cluster)] is None
    assert changes[unit_files.configuration_file(cluster)] == "huge_pages = on\n"
