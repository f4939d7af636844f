# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases by the processes and files they have: here of stand-ins; a real PostgreSQL is in integration."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mshare.survey import databases
from mshare.units import MIB
from rig.other_user import UID, directory_of_other, shared_directory
from rig.survey_parts import surveyed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")

# A stand-in with a database's command name and title: prctl(PR_SET_NAME), and argv as it is started.
STAND_IN = """
import ctypes, mmap, os, signal, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
memory = mmap.mmap(-1, 8 << 20)
for at in range(0, 8 << 20, 2 << 20):
    memory[at] = 1
os.fork()
for at in range(0, 8 << 20, 2 << 20):
    memory[at] = 1
os.write(1, b"ready\\n")
signal.pause()
"""


class StandIn:
    """Runs the stand-in and its child in a session of their own, until the end."""

    def __init__(self, name, folder, arguments=(), title=None, program=sys.executable, uid=None):
        command = [title or name, "-c", STAND_IN, name, *arguments]
        home = sys.base_prefix
        if uid is not None:
            # What root runs may lie where nobody else may look.
            program, home = "/usr/bin/python3", "/usr"
        self.process = subprocess.Popen(
            command,
            executable=program,
            cwd=folder,
            # Python looks for its library beside what it believes to be called.
            env={**os.environ, "PYTHONHOME": home},
            stdout=subprocess.PIPE,
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )

    def __enter__(self):
        for __ in range(2):
            assert self.process.stdout.readline() == b"ready\n"
        return self.process.pid

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("15\n")
    (folder / "postmaster.pid").write_text("1\n/data\n1700000000\n5433\n/run\n*\n 1234 5\n")
    (folder / "postmaster.opts").write_text('/usr/bin/postgres "-D" "/data"\n')
    (folder / "postgresql.conf").write_text("max_connections = 300 # many\nhuge_pages=off\n")
    return folder


def test_postgresql(data):
    with StandIn("postgres", data) as pid:
        __, found = surveyed(pid)
    assert found["kind"] == "postgresql"
    # Where another test has such a server too, both names say more.
    assert found["name"].startswith("postgresql 5433")
    assert found["data_directory"] == str(data)
    assert (found["port"], found["version"], found["processes"]) == (5433, "15", 2)
    assert found["processes_maximum"] == {"value": 300, "source": "max_connections, postgresql.conf"}
    assert found["huge_pages_requested"] == "off"


@pytest.mark.parametrize(
    ("files", "value", "source"),
    [
        ({"postgresql.conf": "# max_connections = 5\n"}, 100, "PostgreSQL's default"),
        ({"postgresql.conf": "max_connections 7\n"}, 7, "postgresql.conf"),
        ({"postgresql.conf": "MAX_CONNECTIONS = '8'\n"}, 8, "postgresql.conf"),
        ({"postgresql.auto.conf": "max_connections = '400'\n"}, 400, "postgresql.auto.conf"),
        ({"postmaster.opts": '/usr/bin/postgres "-c" "max_connections=500"\n'}, 500, "command line"),
        ({"postmaster.opts": '/usr/bin/postgres "-N" "600"\n'}, 600, "command line"),
        ({"postmaster.opts": '/usr/bin/postgres "--max-connections=700"\n'}, 700, "command line"),
        ({"postgresql.conf": "include 'more.conf'\n", "more.conf": "max_connections=9\n"}, 9, "more.conf"),
    ],
)
def test_where_postgresql_says_its_maximum(files, value, source, data):
    for name, content in files.items():
        (data / name).write_text(content)
    with StandIn("postgres", data) as pid:
        __, found = surveyed(pid)
    assert found["processes_maximum"] == {"value": value, "source": f"max_connections, {source}"}


SECRET = "root:$6$secret:19000:0:99999:7:::"


def device(path):
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (lambda path, secret: path.symlink_to(secret), "a symbolic link of uid"),
        (lambda path, secret: os.link(secret, path), "a file of root's with 2 hard links"),
        (lambda path, secret: os.mkfifo(path), "a FIFO"),
        (lambda path, secret: device(path), "a device"),
        (lambda path, secret: path.symlink_to("/dev/zero"), "a symbolic link of uid"),
        (lambda path, secret: path.write_text(SECRET), "PG_VERSION holds no version"),
        (lambda path, secret: path.write_text("15\x1b]0;title\x07"), "PG_VERSION holds no version"),
    ],
)
@pytest.mark.parametrize("name", ["PG_VERSION", "postmaster.pid", "postmaster.opts", "postgresql.conf"])
def test_what_another_user_points_to_is_not_read(name, point, reason):
    """A process of that user, called postgres, has its files lead to what root only may read."""
    with shared_directory() as shared:
        secret = shared / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        data = directory_of_other(shared / "data")
        for file, text in (("PG_VERSION", "15\n"), ("postgresql.conf", "max_connections = 7\n")):
            (data / file).write_text(text)
            (data / file).chmod(0o644)
        (data / name).unlink(missing_ok=True)
        point(data / name, secret)
        if (data / name).lstat().st_ino != secret.stat().st_ino:
            os.chown(data / name, UID, UID, follow_symlinks=False)
        with StandIn("postgres", data, uid=UID) as pid:
            whole, found = surveyed(pid)
    assert found["kind"] == "postgresql"
    assert "$6$secret" not in repr(whole)
    assert "\x1b" not in repr(found["version"])
    if name == "PG_VERSION":
        assert found["version"] is None
    if name == "PG_VERSION" or "version" not in reason:
        assert any(entry["reason"].startswith(reason) for entry in missing_of(whole)), missing_of(whole)


def missing_of(whole):
    return whole["missing"] if isinstance(whole, dict) else whole.missing


def test_configuration_elsewhere(data, tmp_path):
    etc = tmp_path / "etc"
    (etc / "conf.d").mkdir(parents=True)
    (etc / "postgresql.conf").write_text("max_connections = 10\ninclude_dir = 'conf.d'\n")
    (etc / "conf.d" / "a.conf").write_text("max_connections = 11\nport=1\n")
    (etc / "conf.d" / "b.txt").write_text("max_connections = 12\n")
    (data / "postmaster.opts").write_text(f'/usr/bin/postgres "-c" "config_file={etc}/postgresql.conf"\n')
    with StandIn("postgres", data) as pid:
        __, found = surveyed(pid)
    assert found["processes_maximum"] == {"value": 11, "source": "max_connections, a.conf"}


def test_oracle_by_its_processes(tmp_path):
    with StandIn("ora_pmon_ORCLC", tmp_path, title="ora_pmon_ORCLCDB1") as pid:
        found, one = surveyed(pid)
    assert (one["kind"], one["sid"]) == ("oracle", "ORCLCDB1")
    assert one["name"].startswith("oracle ORCLCDB1")
    # The stand-in's program is no Oracle: where the parameters should be, there are none.
    assert one["processes_maximum"] is None
    assert any(gap["what"] == "parameter file" and gap["pid"] == pid for gap in found["missing"])
    assert not found["complete"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # An spfile is binary around its lines.
        ("spfileORCL.ora", b"C\0\0\1*.processes=640\n*.use_large_pages='ONLY'\nC\0"),
        ("initORCL.ora", b"# by hand\nprocesses = 640\nuse_large_pages = only\n"),
    ],
)
def test_oracle_says_its_maximum_beside_its_program(name, content, tmp_path):
    home = tmp_path / "dbhome_1"
    (home / "bin").mkdir(parents=True)
    (home / "dbs").mkdir()
    (home / "dbs" / name).write_bytes(content)
    program = home / "bin" / "oracle"
    shutil.copy(Path(sys.executable).resolve(), program)
    with StandIn("ora_pmon_ORCL", tmp_path, title="ora_pmon_ORCL", program=program) as pid:
        found, one = surveyed(pid)
    assert (one["kind"], one["sid"]) == ("oracle", "ORCL")
    assert one["processes_maximum"] == {"value": 640, "source": f"processes, {name}"}
    assert one["huge_pages_requested"].lower() == "only"
    assert not any(gap["pid"] == pid for gap in found["missing"])


@pytest.mark.parametrize("readable", [True, False])
def test_oracle_s_parameters_where_the_one_file_names_the_other(readable, tmp_path):
    """As with RAC: init.ora has one line, and what counts is elsewhere, perhaps in ASM."""
    home = tmp_path / "dbhome_1"
    (home / "bin").mkdir(parents=True)
    (home / "dbs").mkdir()
    spfile = str(tmp_path / "spfileshared.ora") if readable else "+DATA/ORCL/spfileorcl.ora"
    (home / "dbs" / "initORCL.ora").write_text(f"SPFILE='{spfile}'\n")
    if readable:
        Path(spfile).write_text("ORCL2.sga_target=9G\n*.sga_target=2G\n*.processes=640\nORCL.sga_target=3G\n")
    program = home / "bin" / "oracle"
    shutil.copy(Path(sys.executable).resolve(), program)
    with StandIn("ora_pmon_ORCL", tmp_path, title="ora_pmon_ORCL", program=program) as pid:
        found, one = surveyed(pid)
    gaps = [gap["reason"] for gap in found["missing"] if gap["pid"] == pid]
    if readable:
        assert one["settings"] == {"sga_target": "3G", "spfile": spfile}
        assert one["processes_maximum"] == {"value": 640, "source": "processes, spfileshared.ora"}
        assert gaps == []
    else:
        assert one["settings"] == {"spfile": spfile}
        assert gaps == [f"initORCL.ora names {spfile}, which cannot be read here"]


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("*.processes=640\n", "processes", "640"),
        # Of another instance that shares the file, and what Oracle keeps for itself, do not count.
        ("ORCL2.sga_target=5G\n*.sga_target=3G\nORCL.__sga_target=9\n", "sga_target", "3G"),
        ("*.sga_target=3G\norcl.sga_target=4G\n", "sga_target", "4G"),
        ("ORCL2.sga_target=5G\n", "sga_target", None),
        ("x\0\n*.use_large_pages='ONLY'\n", "use_large_pages", "ONLY"),
        ("*.job_queue_processes=20\n*.processes=30\n", "processes", "30"),
        ("# processes=5\n", "processes", None),
        ("", "processes", None),
    ],
)
def test_oracle_parameters(content, name, value):
    assert databases._parameter(content, "ORCL")(name) == value


def test_other_programs_are_named_by_their_executable(tmp_path):
    with StandIn("whatever", tmp_path) as pid:
        __, found = surveyed(pid)
    assert found["kind"] == "python"
    assert found["name"].startswith("python")
    assert (found["data_directory"], found["processes_maximum"]) == (None, None)
    assert found["segments"][0]["size_bytes"] == 8 * MIB
