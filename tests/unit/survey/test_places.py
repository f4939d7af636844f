# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where real processes live: cgroups, containers, namespaces, under Patroni; and pools of small workers."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mshare.host.mounts import mount_below
from mshare.monitoring.identity import identity
from mshare.plan.facts import from_survey
from mshare.plan.plan import Plan, plan
from mshare.survey.record import from_fields
from mshare.units import MIB
from rig import surveys
from rig.patience import eventually
from rig.survey_parts import instance_of, map_shared, running, survey_fields, surveyed, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
SIZE = 64 * MIB
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def planned(found: dict[str, Any], pid: int) -> Plan:
    return plan(from_survey(from_fields({**found, "instances": [instance_of(found, pid)]})))


@contextlib.contextmanager
def cgroup(above: Path, name: str) -> Iterator[Path]:
    """A cgroup of ours; empty again at the end, for processes that end before it."""
    path = above / name
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made in {above} ({error.strerror})")
    try:
        yield path
    finally:
        eventually(lambda: removed(path))


def removed(path: Path) -> bool:
    # The kernel takes a moment to see that the last process is gone.
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


def limited(path: Path, limit_bytes: int) -> str:
    """Set a limit on memory; the file that has it."""
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (path / name).exists():
            (path / name).write_text(str(limit_bytes))
            return str(path / name)
    pytest.skip(f"{path} has no controller of memory")


def test_a_limit_on_memory_decides_before_the_hosts_ram_does() -> None:
    """A unit with MemoryMax= that its own maximum of connections does not fit into."""
    above = V1 if V1.is_dir() else V2
    with cgroup(above, f"mshare-{secrets.token_hex(4)}.service") as path:
        file = limited(path, 80 * MIB)

        def work(number: int) -> None:
            (path / "cgroup.procs").write_text(str(os.getpid()))
            touch(map_shared(fd, SIZE), 32 * MIB)

        fd = os.memfd_create("sga")
        os.ftruncate(fd, SIZE)
        try:
            with running(work, 4) as pids:
                found, one = surveyed(pids[0])
                made = plan(from_survey(from_fields({**found, "instances": [one]}), clients=2000))
        finally:
            os.close(fd)
    memory = [limit for limit in one["limits"] if limit["resource"] == "memory"]
    (own,) = (limit for limit in memory if limit["file"] == file)
    assert own["limit_bytes"] == 80 * MIB
    # What its processes use by now is no longer left.
    assert 0 < own["available_bytes"] < 80 * MIB
    assert made.outlook.verdict == "will_run_out"
    assert made.outlook.limit == file
    assert f"left by {file}" in made.instances[0].outlook.sentence


def unified() -> Path:
    above = next(
        (path for path in (Path("/sys/fs/cgroup/unified"), V2) if (path / "cgroup.procs").exists()), None
    )
    if above is None:
        pytest.skip("no cgroup of the unified hierarchy")
    return above


def test_a_container_is_part_of_the_name_and_who_configures_it() -> None:
    above = unified()
    identity = secrets.token_hex(32)
    with cgroup(above, f"docker-{identity}.scope") as path:

        def work(number: int) -> None:
            (path / "cgroup.procs").write_text(str(os.getpid()))
            touch(map_shared(-1, SIZE), SIZE)

        with running(work) as (pid,):
            __, one = surveyed(pid)
    assert one["container"] == f"container {identity[:12]}"
    assert one["manager"] == "container"
    assert f"(container {identity[:12]})" in one["name"]


# A postmaster with one backend in a namespace of its own, where its data directory is the same as elsewhere.
INSIDE = """
import ctypes, mmap, os, signal, subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", *sys.argv[2:], folder], check=True)
os.chdir(folder)
with open("PG_VERSION", "w") as file:
    file.write("15\\n")
with open("postmaster.pid", "w") as file:
    file.write(f"1\\n{folder}\\n1700000000\\n5432\\n/run\\n*\\n 1234 5\\n")
with open("postgresql.conf", "w") as file:
    file.write("max_connections = 300\\n")
ctypes.CDLL(None).prctl(15, b"postgres", 0, 0, 0)
memory = mmap.mmap(-1, 8 << 20)
for at in range(0, 8 << 20, 4096):
    memory[at] = 1
print(os.getpid(), flush=True)
signal.alarm(600)
signal.pause()
"""


OTHER_MOUNTS = ("unshare", "--mount", sys.executable, "-S", "-c")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_two_servers_on_one_port_in_two_namespaces_are_told_apart(tmp_path: Path) -> None:
    names: list[set[str]] = []
    with contextlib.ExitStack() as opened:
        pids = []
        for number in range(2):
            process = opened.enter_context(
                subprocess.Popen(
                    [*OTHER_MOUNTS, INSIDE, str(tmp_path), "-t", "tmpfs", "inside"],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "HOSTNAME": f"pg-{number}"},
                )
            )
            opened.callback(process.kill)
            assert process.stdout is not None
            pids.append(int(process.stdout.readline()))
        for __ in range(2):
            found = survey_fields(threshold_bytes=1)
            both = [instance_of(found, pid) for pid in pids]
            names.append({one["name"] for one in both})
        assert [(one["kind"], one["port"], one["data_directory"]) for one in both] == [
            ("postgresql", 5432, str(tmp_path))
        ] * 2
        # Each says what it is configured for, by the files that it sees itself.
        assert [one["processes_maximum"]["value"] for one in both] == [300, 300]
    assert names[0] == names[1]
    assert {name.rsplit(" ", 1)[1] for name in names[0]} == {"pg-0", "pg-1"}


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("lies", "label"),
    [
        ("volumes/pgdata/_data", "volume pgdata"),
        ("srv/pg", "volume {folder}/srv/pg"),
        # Without a name, an engine draws one for each container, as it does with the container's id.
        (f"volumes/{'ab' * 32}/_data", "container {id}"),
    ],
    ids=["named", "directory", "unnamed"],
)
def test_a_container_made_anew_is_known_by_what_its_data_lies_on(
    tmp_path: Path, lies: str, label: str
) -> None:
    above, place = unified(), tmp_path / lies
    place.mkdir(parents=True)
    inside = tmp_path / "data"
    inside.mkdir()
    for __ in range(2):
        drawn = secrets.token_hex(32)
        with cgroup(above, f"docker-{drawn}.scope") as path, contextlib.ExitStack() as opened:
            into = f'echo 0 >{path}/cgroup.procs && exec "$@"'
            process = opened.enter_context(
                subprocess.Popen(
                    ["sh", "-c", into, "sh", *OTHER_MOUNTS, INSIDE, str(inside), "--bind", str(place)],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "HOSTNAME": drawn[:12]},
                )
            )
            opened.callback(process.kill)
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            one = instance_of(survey_fields(threshold_bytes=1), pid)
        assert one["data_directory"] == str(inside)
        found = identity(from_fields(surveys.survey("db1", [one])).instances[0])
        assert found.container == label.format(id=drawn[:12], folder=_in_file_system(tmp_path))


def _in_file_system(path: Path) -> str:
    """The path of a directory in its file system, as mountinfo has it."""
    mount = mount_below(Path("/proc/self/mountinfo").read_text(), str(path))
    assert mount is not None
    return f"{mount.inside.rstrip('/')}/{os.path.relpath(path, mount.path)}"


def test_under_patroni_the_place_to_set_is_its_store(tmp_path: Path) -> None:
    for name, content in {
        "PG_VERSION": "15\n",
        "postmaster.pid": f"1\n{tmp_path}\n1700000000\n5432\n/run\n*\n 1234 5\n",
        "postgresql.conf": "max_connections = 300\n",
        "patroni.dynamic.json": "{}",
    }.items():
        (tmp_path / name).write_text(content)
    fd = os.memfd_create("sga")
    os.ftruncate(fd, SIZE)

    def work(number: int) -> None:
        os.chdir(tmp_path)
        Path("/proc/self/comm").write_text("postgres")
        touch(map_shared(fd, SIZE), SIZE)

    try:
        with running(work, 3) as pids:
            found, one = surveyed(pids[0])
            lines = planned(found, pids[0]).paste.database
    finally:
        os.close(fd)
    assert (one["kind"], one["manager"]) == ("postgresql", "patroni")
    assert lines[0].startswith("# Patroni, `patronictl edit-config`")
    assert "huge_pages = on" in lines
    assert not any("postgresql.conf" in line for line in lines)


# A parent with so many small workers, and memory that all have: as nginx has for its zones.
POOL = """
import mmap, os, signal, sys
shared = mmap.mmap(-1, int(sys.argv[2]) << 20) if int(sys.argv[2]) else b""
for at in range(0, len(shared), 4096):
    shared[at] = 1
for __ in range(int(sys.argv[1])):
    if os.fork() == 0:
        for at in range(0, len(shared), 4096):
            shared[at] = 1
        os.write(1, b"r")
        signal.alarm(600)
        signal.pause()
os.write(1, b"r")
signal.alarm(600)
signal.pause()
"""
WORKERS = 400


@contextlib.contextmanager
def pool(program: Path, shared_mib: int) -> Iterator[int]:
    real = Path(os.path.realpath(sys.executable))
    program.write_bytes(real.read_bytes())
    program.chmod(0o755)
    with subprocess.Popen(
        [program, "-S", "-E", "-c", POOL, str(WORKERS), str(shared_mib)],
        env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = b""
            while len(ready) <= WORKERS:
                part = os.read(process.stdout.fileno(), WORKERS)
                assert part, "the workers ended"
                ready += part
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "kind"), [("php-fpm8.2", "php-fpm"), ("nginx", "nginx"), ("gunicorn", "other")]
)
def test_pools_of_workers_that_are_small_each_have_a_name_and_no_advice_for_databases(
    name: str, kind: str, tmp_path: Path
) -> None:
    with pool(tmp_path / name, 0) as pid:
        # As it comes: each worker is far below the threshold.
        found = survey_fields()
    one = instance_of(found, pid)
    assert one is not None
    assert one["processes"] == WORKERS + 1
    assert one["page_tables"]["maximum_bytes"] < found["method"]["threshold_bytes"]
    assert (one["kind"], one["segments"]) == (kind, [])
    assert one["name"].startswith(name)
    made = plan(from_survey(from_fields({**found, "instances": [one]})))
    assert made.instances == ()
    assert (made.paste.sysctl, made.paste.database) == ((), ())
    assert any("so nothing to plan" in note and one["name"] in note for note in made.notes)


def test_a_pool_of_nginx_with_a_common_zone_is_offered_what_it_can_follow(tmp_path: Path) -> None:
    with pool(tmp_path / "nginx", 10) as pid:
        found = survey_fields()
    one = instance_of(found, pid)
    assert (one["kind"], one["processes"]) == ("nginx", WORKERS + 1)
    (segment,) = one["segments"]
    assert (segment["size_bytes"], segment["processes"]) == (10 * MIB, WORKERS + 1)
    made = planned(found, pid)
    (instance,) = made.instances
    assert not instance.row("pooling").usable
    assert not instance.row("hugetlb_2m").usable
    assert instance.row("preload_hugetlb").usable
    assert made.paste.database == ()
