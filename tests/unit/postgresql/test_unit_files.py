# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a cluster that a plain unit starts, as texts: drop-in, settings, and the including block."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.postgresql import clusters, files, unit_files
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.managers import units
from mshare.postgresql.managers.units import Unit
from mshare.postgresql.spec import ClusterSpec
from mshare.postgresql.unit_files import Parts
from mshare.services import systemd
from rig.other_user import UID, needs_root

UNIT = "postgresql-16.service"
THP = ClusterSpec("thp", start_seconds=610)
PARTS = Parts("# Managed.\n", None, "huge_pages = off\n")
CONFIGURATION = "shared_buffers = 128MB\n#huge_pages = try"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", str(tmp_path / "units"))
    (tmp_path / "postgresql.conf").write_text(CONFIGURATION)
    monkeypatch.setattr(unit_files.paths, "config_dir", lambda: str(tmp_path / "mshare"))
    described(monkeypatch)
    return Cluster(
        "16",
        "postgresql-16",
        str(tmp_path),
        os.geteuid(),
        os.getegid(),
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
    assert [Path(path).name for path, text in changes.items() if text is not None] == [
        "zz-dbmem-mshare.conf",
        "postgresql-16.conf",
        "postgresql.conf",
    ]
    assert changes[unit_files.configuration_file(cluster)] == "huge_pages = off\n"


@pytest.mark.parametrize(
    "changes",
    [
        lambda cluster: unit_files.present(cluster, THP, PARTS),
        lambda cluster: unit_files.native(cluster, "huge_pages = on\n"),
        unit_files.absent,
    ],
    ids=["present", "native", "absent"],
)
def test_the_settings_of_a_first_version_leave_the_data_directory(cluster: Cluster, changes) -> None:
    """It included a file beside postgresql.conf by the same marks."""
    former = Path(cluster.configuration) / "dbmem-mshare.conf"
    former.write_text("huge_pages = off\n")
    block = "\n# BEGIN dbmem.mshare\ninclude_if_exists = 'dbmem-mshare.conf'\n# END dbmem.mshare\n"
    Path(cluster.main).write_text(CONFIGURATION + block)
    for path, text in changes(cluster).items():
        if text is None:
            Path(path).unlink(missing_ok=True)
        elif path == cluster.main:
            Path(path).write_text(text)
    assert not former.exists()
    assert block not in Path(cluster.main).read_text()


def test_the_block_is_put_once_and_taken_away_to_the_last_byte(cluster: Cluster) -> None:
    first = unit_files.present(cluster, THP, PARTS)[cluster.main]
    assert first is not None
    assert first == CONFIGURATION + (
        f"\n# BEGIN dbmem.mshare\ninclude_if_exists = '{unit_files.configuration_file(cluster)}'\n"
        "# END dbmem.mshare\n"
    )
    Path(cluster.main).write_text(first)
    assert unit_files.present(cluster, THP, PARTS)[cluster.main] == first
    assert unit_files.absent(cluster)[cluster.main] == CONFIGURATION


@pytest.mark.parametrize("newline", ["", "\n"])
def test_lines_that_somebody_has_added_behind_the_block_stay_lines_of_their_own(
    cluster: Cluster, newline: str
) -> None:
    Path(cluster.main).write_text(CONFIGURATION + newline)
    text = unit_files.present(cluster, THP, PARTS)[cluster.main] or ""
    Path(cluster.main).write_text(f"{text}port = 5433\n")
    assert unit_files.absent(cluster)[cluster.main] == f"{CONFIGURATION}\nport = 5433\n"
    again = unit_files.present(cluster, THP, PARTS)[cluster.main] or ""
    assert again.startswith(f"{CONFIGURATION}\nport = 5433\n\n# BEGIN")


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


@pytest.mark.parametrize(
    ("name", "text", "wins"),
    [
        ("zzz-site.conf", "[Service]\nEnvironment=LD_PRELOAD=/opt/jemalloc.so\n", True),
        ("zzz-site.conf", '[Service]\nEnvironment="A=b c" \\\n  "MSHARE_PRELOAD_PAGES=4k"\n', True),
        # It takes out all that was set before.
        ("zzz-site.conf", "[Service]\nEnvironment=\nEnvironment=A=b\n", True),
        ("zzz-site.conf", "[Service]\nEnvironment=A=b LANG=C\n#Environment=LD_PRELOAD=x\n", False),
        ("override.conf", "[Service]\nEnvironment=LD_PRELOAD=/opt/jemalloc.so\n", False),
    ],
)
def test_a_drop_in_that_comes_later_wins(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, wins: bool
) -> None:
    (tmp_path / name).write_text(text)
    described(monkeypatch, drop_ins=(str(tmp_path / name),))
    if not wins:
        assert "LD_PRELOAD" in drop_in(cluster)
        return
    with pytest.raises(
        Conflict,
        match=rf"zzz-site.conf counts more than zz-dbmem-mshare.conf, because .* Environment= of unit {UNIT}",
    ):
        drop_in(cluster)


def test_what_systemd_makes_of_it_is_checked_before_the_restart(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that counts more."""
    described(monkeypatch, loaded="loaded", environment_text=f"LD_PRELOAD={THP.library}")
    unit_files.require_set(cluster, THP)
    described(monkeypatch, loaded="loaded", environment_text="LD_PRELOAD=/opt/jemalloc.so")
    with pytest.raises(Conflict, match=r"would start .* with LD_PRELOAD=/opt/jemalloc.so for all that"):
        unit_files.require_set(cluster, THP)


def test_a_configuration_that_is_not_there_is_not_made(cluster: Cluster) -> None:
    """PostgreSQL reads another, and would not see what is written there."""
    Path(cluster.main).unlink()
    for write in (lambda: unit_files.present(cluster, THP, PARTS), lambda: unit_files.native(cluster, "")):
        with pytest.raises(
            Conflict, match=r"postgresql.conf, which should be the configuration .* not there"
        ):
            write()


def test_a_configuration_of_another_name(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "main.conf").write_text(CONFIGURATION)
    other = replace(cluster, main_name="main.conf")
    changes = unit_files.present(other, THP, PARTS)
    assert str(tmp_path / "main.conf") in changes
    assert str(tmp_path / "postgresql.conf") not in changes


def test_a_configuration_behind_a_link_that_root_has_made(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As into a directory under version control: the link stays, and what it leads to comes back."""
    (tmp_path / "git").mkdir()
    Path(cluster.main).rename(tmp_path / "git/postgresql.conf")
    Path(cluster.main).symlink_to("git/postgresql.conf")
    os.setxattr(tmp_path / "git/postgresql.conf", "user.note", b"ours")
    monkeypatch.setattr(files, "systemd_runs", lambda: False)
    changes = files.different(files.present(cluster, THP, None, True))
    assert str(tmp_path / "git/postgresql.conf") in changes
    files.write(changes, cluster)
    assert clusters.settings(cluster)["huge_pages"] == ("off", "postgresql-16.conf")
    assert files.different(files.present(cluster, THP, None, True)) == {}
    files.write(files.different(files.absent(cluster)), cluster)
    assert Path(cluster.main).readlink() == Path("git/postgresql.conf")
    assert Path(cluster.main).read_text() == CONFIGURATION
    # Access lists and labels are such attributes.
    assert os.getxattr(cluster.main, "user.note") == b"ours"


@needs_root
def test_a_configuration_of_somebody_else_is_refused_before_anything_is_written(cluster: Cluster) -> None:
    os.chown(cluster.main, UID, UID)
    with pytest.raises(Conflict, match=rf"a file of uid {UID}, who is not the cluster's owner"):
        unit_files.present(cluster, THP, PARTS)


def test_a_copy_of_the_data_directory_elsewhere_sets_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A standby that pg_basebackup makes has no library, and must not have huge_pages off."""
    changes = unit_files.present(cluster, THP, PARTS)
    written = {path for path, text in changes.items() if text is not None}
    copied = {path for path in written if path.startswith(f"{cluster.data_directory}/")}
    assert {cluster.main} == {path for path in copied if "/mshare/" not in path and "/units/" not in path}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/postgresql.conf").write_text(changes[cluster.main] or "")
    copy = replace(cluster, configuration=str(tmp_path / "copy"), data_directory=str(tmp_path / "copy"))
    assert "huge_pages" not in clusters.settings(copy)
    assert unit_files.absent(copy)[copy.main] == CONFIGURATION


def test_an_instance_s_name_with_a_backslash(cluster: Cluster) -> None:
    odd = replace(cluster, name=r"postgres@srv-pg\x2d16", plain_unit=r"postgres@srv-pg\x2d16.service")
    changes = unit_files.present(odd, THP, PARTS)
    Path(odd.main).write_text(changes[odd.main] or "")
    assert clusters.settings(odd, {unit_files.configuration_file(odd): "huge_pages = off"})["huge_pages"] == (
        "off",
        r"postgres@srv-pg\x2d16.conf",
    )


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
