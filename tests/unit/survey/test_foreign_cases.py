# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs as people report them, made of real processes: the survey's figures, and what the plan says."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mshare.plan.facts import from_survey
from mshare.plan.plan import InstancePlan, Plan, plan
from mshare.survey.record import from_fields
from mshare.units import GIB, KIB, MIB, TIB
from rig import huge_pages, surveys
from rig.apart import die_with
from rig.survey_parts import LIBC, NORESERVE, instance_of, map_shared, running, survey_fields, surveyed, touch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="maps of other processes: root only")
PR_SET_NAME, PR_SET_THP_DISABLE = 15, 41
HUGETLB_2MIB = 0x40000 | 21 << 26


def named(name: str) -> None:
    assert LIBC.prctl(PR_SET_NAME, name.encode(), 0, 0, 0) == 0


def planned(found: dict[str, Any], pid: int) -> tuple[Plan, InstancePlan]:
    """The plan for the instance of a process alone."""
    made = plan(from_survey(from_fields({**found, "instances": [instance_of(found, pid)]})))
    return made, made.instances[0]


@pytest.fixture
def granules() -> Iterator[list[int]]:
    """Memory of Oracle's AMM: files of 16 MiB in /dev/shm; those that are not in use have no size."""
    fds, paths = [], []
    mark = secrets.token_hex(4)
    try:
        for number in range(12):
            path = Path(f"/dev/shm/ora_MSHR{mark}_{number}")
            fds.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            paths.append(path)
            os.ftruncate(fds[-1], 16 * MIB if number < 8 else 0)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
        for path in paths:
            path.unlink()


def test_oracle_with_automatic_memory_management(granules: list[int]) -> None:
    """Each granule is a mapping of its own, side by side with the next; huge pages are excluded."""
    start = 32 * TIB

    def work(number: int) -> None:
        named("ora_pmon_MSHR" if number == 0 else f"oracle_{number}_mshr")
        for index, fd in enumerate(granules):
            address = map_shared(fd, 16 * MIB, address=start + index * 16 * MIB)
            if index < 8:
                touch(address, 16 * MIB, 4 * KIB)

    with running(work, 5) as pids:
        found, one = surveyed(pids[0])
    assert (one["kind"], one["pids"]) == ("oracle", sorted(pids))
    assert {segment["kind"] for segment in one["segments"]} == {"posix"}
    used = [segment for segment in one["segments"] if segment["page_tables_bytes"]]
    assert [segment["size_bytes"] for segment in used] == [16 * MIB] * 8
    # 128 MiB in five processes: 64 leaf tables and one above them in each.
    tables_bytes = sum(segment["page_tables_bytes"] for segment in used)
    assert abs(tables_bytes - 5 * 65 * 4 * KIB) <= 5 * 16 * KIB
    made, instance = planned(found, pids[0])
    assert not instance.row("hugetlb_2m").usable
    assert not instance.row("preload_hugetlb").usable
    assert any("Automatic Memory Management" in reason for reason in instance.row("hugetlb_2m").reasons)
    assert (made.paste.sysctl, made.paste.database) == ((), ())


def test_a_heap_that_java_maps_three_times_is_one_heap() -> None:
    """ZGC before its generations has three views of its heap, and tools that add them up show three heaps."""
    fd = os.memfd_create("java_heap")
    os.ftruncate(fd, 64 * MIB)

    def work(number: int) -> None:
        named("java")
        for view in (4, 8, 16):
            touch(map_shared(fd, 64 * MIB, address=view * TIB), 64 * MIB)

    with running(work) as (pid,):
        found, one = surveyed(pid)
        __, instance = planned(found, pid)
    os.close(fd)
    (segment,) = one["segments"]
    assert segment["size_bytes"] == 64 * MIB
    assert [part["size_bytes"] for part in segment["ranges"]] == [64 * MIB] * 3
    # The tables are there three times, for they are of addresses.
    assert segment["page_tables_bytes"] == 3 * (32 + 1) * 4 * KIB
    assert instance.size_bytes == 64 * MIB
    assert not instance.row("mshare").usable
    assert instance.outlook.done is not None


@pytest.fixture
def daemons() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


SWITCH = """
import ctypes, mmap, os, signal, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
kept = []
for fd in map(int, sys.argv[2:]):
    kept.append(mmap.mmap(fd, 32 << 20))
    for at in range(0, 32 << 20, 4096):
        kept[-1][at] = 1
os.write(1, f"{os.getpid()}\\n".encode())
os.close(1)
signal.alarm(600)
signal.pause()
"""


def program(path: Path, name: str, fds: list[int]) -> int:
    """Start a program of another executable, as a daemon that has the memory behind the files mapped."""
    read_fd, write_fd = os.pipe()
    words = [str(path), "-S", "-c", SWITCH, name, *map(str, fds)]
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.dup2(write_fd, 1)
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execve(path, words, {"PYTHONHOME": sys.base_prefix, "PATH": "/usr/bin:/bin"})
    os.waitpid(between, 0)
    os.close(write_fd)
    with os.fdopen(read_fd) as answer:
        return int(answer.readline())


def test_a_switch_with_the_memory_of_its_guests_makes_them_no_single_server(
    tmp_path: Path, daemons: list[int]
) -> None:
    """Open vSwitch with DPDK has the memory of every guest mapped (vhost-user)."""
    real = Path(os.path.realpath(sys.executable))
    programs = {}
    for name in ("qemu-system-x86", "ovs-vswitchd"):
        programs[name] = tmp_path / name
        # A program of its own, with the libraries where they are.
        programs[name].write_bytes(real.read_bytes())
        programs[name].chmod(0o755)
    fds = [os.memfd_create(f"guest{number}") for number in range(2)]
    for fd in fds:
        os.ftruncate(fd, 32 * MIB)
    guests = [program(programs["qemu-system-x86"], "qemu-system-x86", [fd]) for fd in fds]
    daemons += guests
    switch = program(programs["ovs-vswitchd"], "ovs-vswitchd", fds)
    daemons.append(switch)
    for fd in fds:
        os.close(fd)
    found = survey_fields(threshold_bytes=1)
    assert [instance_of(found, pid)["pids"] for pid in guests] == [[pid] for pid in guests]
    assert instance_of(found, switch)["pids"] == [switch]
    assert len(instance_of(found, switch)["segments"]) == 2


def test_programs_of_one_family_are_one_server_all_the_same(tmp_path: Path) -> None:
    """An instance of SAP is a dozen programs that one parent started, with common segments."""
    real = Path(os.path.realpath(sys.executable))
    other = tmp_path / "icman"
    other.write_bytes(real.read_bytes())
    other.chmod(0o755)
    fd = os.memfd_create("em")
    os.ftruncate(fd, 32 * MIB)
    started = []
    try:
        for path, name in ((real, "disp+work"), (other, "icman")):
            process = subprocess.Popen(
                [str(path), "-S", "-c", SWITCH, name, str(fd)],
                executable=path,
                env={"PYTHONHOME": sys.base_prefix, "PATH": "/usr/bin:/bin"},
                pass_fds=[fd],
                stdout=subprocess.PIPE,
            )
            started.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        __, one = surveyed(started[0].pid)
    finally:
        os.close(fd)
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert {process.pid for process in started} <= set(one["pids"])


def test_a_server_without_transparent_huge_pages_is_told_so() -> None:
    """MemoryTHP= of a unit, or prctl of whoever started it; its children inherit it."""

    def server(number: int) -> None:
        assert LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
        address = map_shared(-1, 64 * MIB, address=32 * TIB)
        touch(address, 64 * MIB)
        ready, tell = os.pipe()
        parent = os.getpid()
        for __ in range(3):
            if os.fork() == 0:
                die_with(parent)
                touch(address, 64 * MIB)
                os.write(tell, b".")
                while True:
                    signal.pause()
        while os.read(ready, 1) and (number := number + 1) < 3:
            pass

    with running(server) as (pid,):
        found, one = surveyed(pid)
        __, instance = planned(found, pid)
    assert (one["thp_disabled"], one["processes"]) == (True, 4)
    for remedy in ("collapse", "preload_thp", "thp_shmem"):
        assert any("switched off" in reason for reason in instance.row(remedy).reasons), remedy
    assert instance.outlook.remedy_id not in ("collapse", "preload_thp", "thp_shmem")


def test_a_database_in_huge_pages_of_system_v_has_nothing_to_do() -> None:
    """MySQL with large-pages before 8, Oracle, JVMs with UseSHM: SysV memory of the pool."""
    with huge_pages.reserved(16):
        number = LIBC.shmget(0, ctypes.c_size_t(32 * MIB), 0o1600 | 0o4000)
        assert number >= 0, os.strerror(ctypes.get_errno())
        try:

            def work(child: int) -> None:
                address = LIBC.shmat(number, None, 0)
                touch(address, 32 * MIB)

            with running(work, 3) as pids:
                found, one = surveyed(pids[0])
                made, instance = planned(found, pids[0])
        finally:
            LIBC.shmctl(number, 0, None)
    (segment,) = one["segments"]
    assert (segment["kind"], segment["page_bytes"], segment["huge_bytes"]) == ("hugetlb", 2 * MIB, 32 * MIB)
    assert "huge pages already" in (instance.outlook.done or "")
    assert made.paste.sysctl == ()


def test_a_pod_without_huge_pages_is_told_what_would_kill_it() -> None:
    """On a node with a pool, a pod that requests none of it has a limit of 0: SIGBUS when it takes pages."""
    limit = {
        "resource": "hugetlb 2MB",
        "file": "/sys/fs/cgroup/kubepods.slice/hugetlb.2MB.max",
        "limit_bytes": 0,
    }
    one = surveys.instance("main", 8 * GIB, 100, manager="kubernetes", limits=[limit])
    made = plan(from_survey(from_fields(surveys.survey("node1", [one]))))
    (instance,) = made.instances
    needs = instance.outlook.needs or ""
    assert "a limit hugepages-2Mi of the pod, for /sys/fs/cgroup/kubepods.slice/hugetlb.2MB.max" in needs
    assert "allows 0 B of 8 GiB" in needs
    # What is not of the pool does not need it.
    assert "hugepages-2Mi" not in instance.row("collapse").takes


def test_a_reservation_that_nobody_uses_costs_nothing() -> None:
    """Whoever reserves for the largest case (a JVM, DPDK with --socket-limit) has tables for what is used."""

    def work(number: int) -> None:
        touch(map_shared(-1, 200 * GIB, flags=NORESERVE), 4 * MIB)

    with running(work, 2) as pids:
        found = survey_fields(threshold_bytes=1)
    (segment,) = instance_of(found, pids[0])["segments"]
    assert segment["size_bytes"] == 200 * GIB
    assert segment["page_tables_bytes"] <= 2 * 5 * 4 * KIB


def test_a_stopped_process_is_read_as_any_other() -> None:
    with running(lambda number: touch(map_shared(-1, 16 * MIB), 16 * MIB)) as (pid,):
        os.kill(pid, signal.SIGSTOP)
        while "T" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            time.sleep(0.01)
        __, one = surveyed(pid)
        os.kill(pid, signal.SIGCONT)
    assert one["page_tables"]["segments_bytes"] >= 8 * 4 * KIB


WORKERS = """
import mmap, os, signal, sys
path, workers = sys.argv[1], int(sys.argv[2])
parent = os.getpid()
for __ in range(workers):
    if os.fork() == 0:
        file = open(path, "rb")
        index = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        # Only the pages that are touched, and none around them.
        index.madvise(mmap.MADV_RANDOM)
        for at in range(0, len(index), 2 << 20):
            index[at]
        os.write(1, b"%d\\n" % os.getpid())
        os.close(1)
        os.read(0, 1)
        os._exit(0)
os.close(1)
os.read(0, 1)
"""


def test_an_index_that_the_workers_of_two_containers_map(tmp_path: Path) -> None:
    """mwmbl/mwmbl#418: 34 workers with a file of 390 GiB, 802 MiB of page tables each, and no shared memory.

    Each server is told apart and told what it pays, and nothing is sized for the file.
    """
    index = tmp_path / "index.tinysearch"
    with index.open("wb") as file:
        file.truncate(3 * GIB)
    started: list[subprocess.Popen[bytes]] = []
    workers: list[list[int]] = []
    try:
        for name in ("one", "two"):
            script = tmp_path / f"gunicorn-{name}"
            script.write_text(WORKERS)
            words = [sys.executable, "-S", "-E", str(script), str(index), "3"]
            server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            started.append(server)
            assert server.stdout is not None
            workers.append(sorted(map(int, server.stdout.read().split())))
        found = survey_fields()
        made = plan(from_survey(from_fields(found)))
    finally:
        for server in started:
            # Its workers end with what they read from.
            assert server.stdin is not None
            server.stdin.close()
            assert server.stdout is not None
            server.stdout.close()
            server.wait()
    for pids, name in zip(workers, ("one", "two")):
        each = instance_of(found, pids[0])
        assert (each["pids"], each["segments"]) == (pids, [])
        assert f"gunicorn-{name}" in each["name"]
        # 1,536 leaf tables for each worker, and what it has besides.
        assert 3 * 6 * MIB <= each["page_tables"]["sum_bytes"] <= 3 * 8 * MIB
        assert any("so nothing to plan" in note and each["name"] in note for note in made.notes)
