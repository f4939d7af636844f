# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a server that runs would start again, by a stand-in for postgres; real ones are in integration."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import Conflict
from mshare.postgresql import ask
from mshare.postgresql.clusters import Cluster
from mshare.postgresql.managers import pg_ctlcluster

# It answers as PostgreSQL does, and notes how it was asked.
POSTGRES = """#!/bin/sh
echo "$*" >>{asked}
case "$*" in
  -V) echo 'postgres (PostgreSQL) {version} (Debian {version}-1)' ;;
  *' -C shared_memory_size_in_huge_pages') {counts} ;;
  *' -C shared_buffers') {answers} ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    for name in ("bin", "data", "data/global"):
        (tmp_path / name).mkdir()
    return Cluster(
        *("16", "main", str(tmp_path / "data"), os.geteuid(), os.getegid()),
        str(tmp_path),
        str(tmp_path / "bin"),
    )


def has(
    cluster: Cluster, version: str = "16.4", answers: str = "echo 16384", counts: str = "echo 70"
) -> None:
    """Install a postgres of that version that answers so."""
    path = Path(cluster.server_program)
    asked = path.parent / "asked"
    path.write_text(POSTGRES.format(asked=asked, version=version, answers=answers, counts=counts))
    path.chmod(0o755)


def asked(cluster: Cluster) -> list[str]:
    return (Path(cluster.programs) / "asked").read_text().splitlines()


def test_one_that_starts(cluster: Cluster) -> None:
    has(cluster)
    ask.require_startable(cluster, os.getpid())
    assert asked(cluster)[0] == "-V"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        # Somebody has changed it since, and not restarted the server.
        (
            {"answers": "echo 'LOG: syntax error in file \"a.conf\" line 3' >&2; exit 1"},
            r'shared_buffers` says: LOG: syntax error in file "a.conf" line 3\)',
        ),
        ({"answers": "exit 1"}, r"says: nothing"),
        (
            {"counts": "echo 'FATAL:  could not access file \"lost\": No such file' >&2; exit 1"},
            r'could not access file "lost"',
        ),
        (
            {"counts": "echo 'FATAL:  incompatible library \"old\": version mismatch' >&2; exit 1"},
            "incompatible library",
        ),
        # A path such as /usr/local/pgsql leads to the next version.
        ({"version": "17.2"}, r"bin/postgres is of version 17.2, and its data is of version 16\)"),
    ],
)
def test_one_that_would_not_start_again(cluster: Cluster, change: dict[str, str], reason: str) -> None:
    has(cluster, **change)
    with pytest.raises(Conflict, match=rf"main runs, but would not start again \(.*{reason}"):
        ask.require_startable(cluster, os.getpid())


def test_a_program_that_is_gone(cluster: Cluster) -> None:
    with pytest.raises(Conflict, match=r"bin/postgres cannot be run\), so it was not restarted, and nothing"):
        ask.require_startable(cluster, os.getpid())


@pytest.mark.parametrize(
    "counts",
    ["exit 1", "echo 'FATAL:  could not load server certificate file \"server.crt\"' >&2; exit 1", "sleep 0"],
)
def test_what_may_be_a_matter_of_where_it_is_asked_is_no_obstacle(cluster: Cluster, counts: str) -> None:
    """A library that does not initialise in a scratch directory may do so in its own."""
    has(cluster, counts=counts)
    ask.require_startable(cluster, os.getpid())


def test_before_version_10_two_numbers_tell_a_version(cluster: Cluster) -> None:
    old = replace(cluster, version="9.6")
    has(old, version="9.6.24")
    ask.require_startable(old, os.getpid())
    has(old, version="9.5.25")
    with pytest.raises(Conflict, match=r"is of version 9.5, and its data is of version 9.6"):
        ask.require_startable(old, os.getpid())


def test_the_command_line_of_the_server_counts(cluster: Cluster) -> None:
    has(cluster)
    opts = f'/bin/postgres "-D" "{cluster.data_directory}" "-c" "config_file=/x" "-c" "shared_buffers=64GB"\n'
    (Path(cluster.data_directory) / "postmaster.opts").write_text(opts)
    assert ask.setting(cluster, "shared_buffers") == "16384"
    main = f"-D {cluster.data_directory} -c config_file={cluster.main}"
    assert asked(cluster) == [f"{main} -c shared_buffers=64GB -C shared_buffers"]


# -- what pg_ctlcluster says, by its own code


@pytest.fixture
def perl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the code of Debian's postgresql-common, whose answer a test writes."""
    path = tmp_path / "programs/perl"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nprintf auto\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def test_a_cluster_that_its_start_conf_disables(cluster: Cluster, perl: Path) -> None:
    """systemd would stop it, and pg_ctlcluster not start it."""
    debian = replace(cluster, configuration="/etc/postgresql/16/main")
    has(debian)
    ask.require_startable(debian, os.getpid())
    perl.write_text("#!/bin/sh\nprintf disabled\n")
    with pytest.raises(Conflict, match=r"again \(start.conf in /etc/postgresql/16/main is disabled\)"):
        ask.require_startable(debian, os.getpid())
    ask.require_startable(cluster, os.getpid())


def test_a_file_of_debian_s_that_is_broken(cluster: Cluster, perl: Path) -> None:
    debian = replace(cluster, configuration="/etc/postgresql/16/main")
    has(debian)
    perl.write_text("#!/bin/sh\necho 'Error: invalid line 1 in environment: A=/x' >&2; exit 1\n")
    with pytest.raises(Conflict, match=r"\(pg_ctlcluster says: Error: invalid line 1 in environment: A=/x\)"):
        ask.require_startable(debian, os.getpid())
    perl.write_text("#!/bin/sh\necho 'Undefined subroutine' >&2; exit 1\n")
    ask.require_startable(debian, os.getpid())


def test_files_of_debian_s_that_are_read_for_ever(
    cluster: Cluster, perl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's user writes them, and pg_ctlcluster follows each include as often as it is there."""
    debian = replace(cluster, configuration="/etc/postgresql/16/main")
    has(debian)
    monkeypatch.setattr(pg_ctlcluster, "_SECONDS", 0.2)
    perl.write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(Conflict, match=r"has not read environment .* after 0\.2 s; they may include"):
        ask.require_startable(debian, os.getpid())
