# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is one instance, and what it is called: real processes, with the names and files of servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from mshare.host.processes import Process, container
from mshare.host.processes import of_pid as process_of
from mshare.units import KIB, MIB
from rig.survey_parts import instance_of, map_shared, running, surveyed, touch
from rig.survey_parts import survey_fields as survey

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")

# A postmaster with backends, all of one name; each maps what it is told to, some a segment more.
SERVER = """
import ctypes, mmap, os, sys
ended, ends = os.pipe()
name, backends, common, own = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
def fill(memory):
    for at in range(0, len(memory), 4096):
        memory[at] = 1
kept = [mmap.mmap(-1, 8 << 20)]
fill(kept[0])
if common:
    with open(common, "r+b") as file:
        kept.append(mmap.mmap(file.fileno(), 0))
    kept[-1][0] = 1
for number in range(backends):
    if os.fork() == 0:
        fill(kept[0])
        if number < own:
            fd = os.open(f"{sys.argv[5]}", os.O_RDWR)
            kept.append(mmap.mmap(fd, 4 << 20))
            fill(kept[-1])
        os.write(1, b"r")
        # Nobody writes: this ends when the parent does, and the parent with the tests.
        os.close(ends)
        os.read(ended, 1)
        os._exit(0)
os.write(1, b"r")
sys.stdin.read()
"""


class Server:
    """A stand-in for a server with its backends, in a session of their own."""

    def __init__(self, name, folder, backends=2, common="", own=0, dsm=""):
        words = [sys.executable, "-S", "-c", SERVER, name, str(backends), str(common), str(own), str(dsm)]
        self.process = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._count = backends + 1

    def __enter__(self):
        ready = b""
        while len(ready) < self._count:
            part = self.process.stdout.read1(self._count)
            assert part, "the stand-in ended"
            ready += part
        return self.process.pid

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()


def data_directory(place, name, port=5432):
    folder = place / name
    folder.mkdir()
    (folder / "PG_VERSION").write_text("15\n")
    (folder / "postmaster.pid").write_text(f"1\n{folder}\n1700000000\n{port}\n/run\n*\n 1234 5\n")
    (folder / "postgresql.conf").write_text("max_connections = 300\n")
    return folder


@pytest.fixture
def cache(tmp_path):
    """A file that many programs map, like a name-service cache."""
    path = tmp_path / "cache"
    path.write_bytes(bytes(16 * MIB))
    return path


def test_two_servers_that_map_a_common_file_stay_two_and_the_file_is_nobodys(tmp_path, cache):
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(Server("postgres", data_directory(tmp_path, name), common=cache))
            for name in ("a", "b")
        )
        found = survey(threshold_bytes=1)
    first, second = instance_of(found, one), instance_of(found, two)
    assert first["pids"] != second["pids"]
    assert (first["processes"], second["processes"]) == (3, 3)
    for each in (first, second):
        assert [segment["kind"] for segment in each["segments"]] == ["anonymous"]


def test_two_servers_that_map_one_posix_segment_stay_two(tmp_path):
    path = f"/dev/shm/mshare-test-{os.getpid()}"
    with open(path, "wb") as file:
        file.truncate(8 * MIB)
    try:
        with ExitStack() as stack:
            pids = [
                stack.enter_context(Server("postgres", data_directory(tmp_path, name), common=path))
                for name in ("a", "b")
            ]
            found = survey(threshold_bytes=1)
    finally:
        os.unlink(path)
    one, two = (instance_of(found, pid) for pid in pids)
    assert {one["data_directory"], two["data_directory"]} == {str(tmp_path / name) for name in ("a", "b")}
    assert one["processes"] == two["processes"] == 3


def test_two_servers_on_one_port_are_told_apart_by_their_data_directories(tmp_path):
    with ExitStack() as stack:
        pids = [
            stack.enter_context(Server("postgres", data_directory(tmp_path, name))) for name in ("a", "b")
        ]
        both = [instance_of(survey(threshold_bytes=1), pid)["name"] for pid in pids]
    assert both == [f"postgresql 5432 {tmp_path / name}" for name in ("a", "b")]


@pytest.mark.parametrize("name", ["edb-postgres", "postgres", "some-derivative"])
def test_postgresql_is_recognised_by_its_files(name, tmp_path):
    with Server(name, data_directory(tmp_path, "data", 5444)) as pid:
        __, found = surveyed(pid)
    assert (found["kind"], found["port"], found["version"]) == ("postgresql", 5444, "15")
    assert found["processes_maximum"] == {"value": 300, "source": "max_connections, postgresql.conf"}


def test_a_program_without_a_data_directory_is_no_postgresql(tmp_path):
    with Server("whatever", tmp_path) as pid:
        __, found = surveyed(pid)
    assert (found["kind"], found["data_directory"]) == ("python", None)


def test_memory_of_a_parallel_query_is_short_lived_and_has_its_own_processes(tmp_path):
    path = f"/dev/shm/PostgreSQL.{os.getpid()}"
    with open(path, "wb") as file:
        file.truncate(4 * MIB)
    try:
        with Server("postgres", data_directory(tmp_path, "data"), 6, own=2, dsm=path) as pid:
            __, found = surveyed(pid)
    finally:
        os.unlink(path)
    rows = {segment["kind"]: segment for segment in found["segments"]}
    assert (rows["anonymous"]["processes"], rows["anonymous"]["short_lived"]) == (7, False)
    assert (rows["posix"]["processes"], rows["posix"]["short_lived"]) == (2, True)


@pytest.mark.parametrize(
    ("name", "title", "sid"),
    [
        ("asm_pmon_+ASM", "asm_pmon_+ASM", "+ASM"),
        ("db_pmon_FREE", "db_pmon_FREE", "FREE"),
        ("xe_pmon_XE", "xe_pmon_XE", "XE"),
        ("ora_pmon_ORCL", "ora_pmon_ORCL", "ORCL"),
    ],
)
def test_oracles_of_every_edition(name, title, sid, tmp_path):
    words = [title, "-S", "-c", SERVER, name, "1", "", "0", ""]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        words,
        executable=sys.executable,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            ready = b""
            while len(ready) < 2:
                part = process.stdout.read1(2)
                assert part, "the stand-in ended"
                ready += part
            found, one = surveyed(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert (one["kind"], one["sid"]) == ("oracle", sid)
    # Another test's stand-in of the same SID may run beside this one; then both carry their process.
    assert one["name"] in (f"oracle {sid}", f"oracle {sid} (process {process.pid})")
    # Root may read everything: what is missing is the file, and nobody's permission.
    gaps = [gap["reason"] for gap in found["missing"] if gap["pid"] in one["pids"]]
    assert len(gaps) == 1
    assert "permission" not in gaps[0]


# So many small workers of a parent that is small itself.
WORKERS = """
import os, sys
ended, ends = os.pipe()
for __ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.write(1, b"r")
        os.close(ends)
        os.read(ended, 1)
        os._exit(0)
os.write(1, b"r")
sys.stdin.read()
"""


def test_small_processes_that_matter_together_have_a_name_and_a_row(tmp_path):
    count = 300
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    words = [sys.executable, "-S", "-E", str(script), str(count)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            ready = b""
            while len(ready) <= count:
                part = process.stdout.read1(count)
                assert part, "the workers ended"
                ready += part
            found = survey()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    one = instance_of(found, process.pid)
    assert one is not None
    if os.getpid() not in one["pids"]:
        assert one["page_tables"]["maximum_bytes"] < found["method"]["threshold_bytes"]
    assert (one["kind"], one["segments"]) == ("python", [])
    # Its parent, which runs this test, may be a Python as well.
    assert one["processes"] > count
    assert one["name"].startswith("python")


def test_names_do_not_renumber_when_another_ends():
    def work(number):
        touch(map_shared(-1, 8 * MIB), 8 * MIB)

    with running(work) as (one,):
        with running(work) as (two,), running(work) as (three,):
            found = survey(threshold_bytes=1)
            names = {pid: instance_of(found, pid)["name"] for pid in (one, two, three)}
        with running(work) as (another,):
            after = survey(threshold_bytes=1)
            assert instance_of(after, one)["name"] == names[one]
            assert instance_of(after, another)["name"] not in names.values()
    assert len(set(names.values())) == 3
    assert not any("#" in name for name in names.values())


ID, OUTER = "0123456789ab" + "0" * 52, "fedcba987654" + "1" * 52


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (None, None),
        ("/", None),
        ("/system.slice/postgresql@15-main.service", None),
        (f"/docker/{ID}", "container 0123456789ab"),
        (f"/system.slice/docker-{ID}.scope", "container 0123456789ab"),
        (f"/machine.slice/libpod-{ID}.scope/container", "container 0123456789ab"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"
            f"a1b2c3d4_0000_1111_2222_333344445555.slice/cri-containerd-{ID}.scope",
            "pod a1b2c3d4-0000 container 0123456789ab",
        ),
        (f"/kubepods/besteffort/poda1b2c3d4-0000-1111-2222-333344445555/{ID}",
         "pod a1b2c3d4-0000 container 0123456789ab"),
        # A container in a container, and a pod of a cluster whose nodes are containers: the inner one.
        (f"/docker/{OUTER}/docker/{ID}", "container 0123456789ab"),
        (
            f"/docker/{OUTER}/kubelet.slice/kubelet-kubepods-poda1b2c3d4_0000_1111_2222_333344445555.slice"
            f"/cri-containerd-{ID}.scope",
            "pod a1b2c3d4-0000 container 0123456789ab",
        ),
        ("/lxc.payload.outer/lxc.payload.inner/init.scope", "container inner"),
        # containerd without SystemdCgroup (falcosecurity/libs#65), and a pod from a file of the node.
        (
            "/system.slice/containerd.service/kubepods-burstable-poda1b2c3d4_0000_1111_2222_333344445555.slice"
            f":cri-containerd:{ID}",
            "pod a1b2c3d4-0000 container 0123456789ab",
        ),
        (f"/kubepods/burstable/poda1b2c3d4000011112222333344445555/{ID}",
         "pod a1b2c3d4-0000 container 0123456789ab"),
        (f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope", "container 0123456789ab"),
        (r"/machine.slice/machine-qemu\x2d1\x2ddb1.scope/libvirt/emulator", "container qemu-1-db1"),
        ("/lxc/web1", "container web1"),
        ("/lxc.payload.web1/system.slice/x.service", "container web1"),
        ("/machine.slice/machine-db1.scope/payload", "container db1"),
        ("/machine.slice/systemd-nspawn@db1.service", "container db1"),
    ],
)  # fmt: skip
def test_containers_by_their_cgroups(cgroup, name):
    assert container(cgroup) == name


def test_a_container_that_only_cgroups_of_version_1_name(monkeypatch):
    """Docker where both versions are in use: the unified path of each container is that of containerd."""
    one = process_of(os.getpid())
    paths = {
        "": "/system.slice/containerd.service",
        "name=systemd": f"/docker/{ID}",
        "memory": f"/docker/{ID}",
    }
    monkeypatch.setattr(Process, "cgroups", lambda process: paths)
    assert container(one.cgroup()) == "container 0123456789ab"
    paths["name=systemd"] = paths["memory"] = "/system.slice/postgresql.service"
    paths[""] = "/"
    assert one.cgroup() == "/system.slice/postgresql.service"


def test_the_helpers_of_postgresql_are_not_its_clients(tmp_path):
    with Server("postgres", data_directory(tmp_path, "data"), 3) as pid:
        __, found = surveyed(pid)
    # Only the postmaster: the stand-in's backends have no titles of background processes.
    assert (found["processes"], found["helpers"]) == (4, 1)
    assert found["page_tables"]["kind"] == "measured"
    assert found["page_tables"]["average_bytes"] >= 8 * KIB


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    folder = data_directory(tmp_path, "data")
    (folder / "postgresql.conf").unlink()
    os.mkfifo(folder / "postgresql.conf")
    with Server("postgres", folder) as pid:
        surveyed_host, found = surveyed(pid)
    assert (found["port"], found["processes_maximum"]) == (5432, None)
    gaps = [gap for gap in surveyed_host["missing"] if gap["pid"] == pid]
    assert [gap["what"] for gap in gaps] == ["postgresql.conf"]
    assert "FIFO" in gaps[0]["reason"]


def test_programs_that_have_only_a_common_file_are_no_instances(cache):
    code = f"""
import ctypes, mmap, os, signal, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
file = open({str(cache)!r}, "r+b")
memory = mmap.mmap(file.fileno(), 0)
memory[0] = 1
os.write(1, b"r")
signal.pause()
"""
    with ExitStack() as stack:
        for name in ("one", "two"):
            process = subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.read1(1) == b"r"
        found = survey(threshold_bytes=1)
    names = [segment["name"] for one in found["instances"] for segment in one["segments"]]
    assert str(cache) not in names
