# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading /proc: what others wrote there, however odd."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mshare.errors import Unavailable
from mshare.host import mounts, procfs
from mshare.host.mounts import Mount
from rig.faults import open_files

MOUNTINFO = r"""
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:21 / /sys/fs/mshare rw,nosuid - msharefs msharefs rw
24 22 0:22 / /a\040b/\134c\011d rw shared:2 master:3 propagate_from:4 - tmpfs with\043hash rw,size=1k
25 22 0:23 / /run/msharefs rw - tmpfs mshare-simulated rw,mode=755
26 22 0:24 / /run/msharefs ro - tmpfs on\040top ro
""".lstrip()


@pytest.fixture
def proc(monkeypatch):
    """Files of /proc that say what a test wants; all others do not exist."""
    files: dict[str, str] = {}
    monkeypatch.setattr(procfs, "read", files.get)
    monkeypatch.setattr(mounts, "read", files.get)
    return files


def test_mounts(proc):
    proc["/proc/self/mountinfo"] = MOUNTINFO
    assert mounts.mounts()[1:3] == (
        Mount("/sys/fs/mshare", "msharefs", "msharefs", "rw,nosuid", "rw", "0:21"),
        Mount("/a b/\\c\td", "tmpfs", "with#hash", "rw", "rw,size=1k", "0:22"),
    )


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/run/msharefs", "on top"),
        ("/run/msharefs/", "on top"),
        ("/run/../run/msharefs", "on top"),
        ("/", "/dev/root"),
        ("/run", None),
    ],
)
def test_the_last_mount_at_a_path_is_the_one_that_is_seen(proc, path, source):
    proc["/proc/self/mountinfo"] = MOUNTINFO
    found = mounts.mount_at(path)
    assert (found and found.source) == source


def test_no_mountinfo_no_mounts(proc):
    assert mounts.mounts() == ()


def escaped(text: str) -> str:
    """As the kernel's seq_escape writes it."""
    return re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found.group()):03o}", text)


@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_any_mount_point_can_be_read(name):
    text = f"9 1 0:9 / /{escaped(name)} rw - tmpfs {escaped(name)} rw\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mounts, "read", lambda _path: text)
        assert mounts.mounts() == (Mount(f"/{name}", "tmpfs", name, "rw", "rw", "0:9"),)


STAT = "{pid} ({name}) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n"


@pytest.mark.parametrize("name", ["oracle", "ora pmon", ") S 1", "((", "a) R (b", "x\ny", ""])
def test_a_start_time_behind_any_command_name(proc, name):
    proc["/proc/7/stat"] = STAT.format(pid=7, name=name, state="S")
    assert procfs.start_ticks(7) == 4711
    assert procfs.alive(7, 4711)
    assert not procfs.alive(7, 4710)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_zombie_is_gone(proc, state):
    proc["/proc/7/stat"] = STAT.format(pid=7, name="oracle", state=state)
    assert procfs.start_ticks(7) is None
    assert not procfs.alive(7, 4711)


def test_a_thread_has_a_start_time_of_its_own(proc):
    proc["/proc/7/task/8/stat"] = STAT.format(pid=8, name="lgwr", state="R")
    assert procfs.start_ticks(7, 8) == 4711
    assert procfs.start_ticks(7) is None


def test_a_process_that_is_gone(proc):
    assert procfs.start_ticks(7) is None
    assert procfs.status_bytes(7) is None
    assert procfs.vm_pte_bytes(7) is None
    assert not procfs.alive(7, 4711)


def test_a_real_process_with_an_odd_name_that_ends():
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b') Z 1 (', 0, 0, 0); print(); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        started = procfs.start_ticks(process.pid)
        assert started
        assert procfs.alive(process.pid, started)
        assert procfs.vm_pte_bytes(process.pid) > 0
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not procfs.alive(process.pid, started), "a zombie"
    assert not procfs.alive(process.pid, started)
    assert procfs.status_bytes(process.pid) is None


def test_this_process_and_its_thread():
    assert procfs.alive(os.getpid(), procfs.start_ticks(os.getpid()))
    assert procfs.start_ticks(os.getpid(), threading.get_native_id())
    assert procfs.vm_pte_bytes() > 0
    assert procfs.meminfo_bytes()["MemTotal"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("refusal", [None, errno.ENOSYS, errno.EPERM, errno.EMFILE])
@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_who_runs_is_counted_without_those_that_have_ended(monkeypatch, refusal, at_once):
    monkeypatch.setattr(procfs, "_PIDFDS_AT_ONCE", at_once)
    if refusal is not None:

        def refuse(pid):
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(os, "pidfd_open", refuse)
    open_before = len(open_files())
    waiting = [sys.executable, "-c", "input()"]
    processes = [subprocess.Popen(waiting, stdin=subprocess.PIPE) for __ in range(3)]
    pids = [process.pid for process in processes]
    try:
        assert procfs.count_running(pids) == 3
        processes[0].kill()
        os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
        assert procfs.count_running(pids) == 2, "a zombie does not run"
        processes[0].wait()
        assert procfs.count_running(pids) == 2
        assert procfs.count_running([]) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert procfs.count_running(pids) == 0
    assert len(open_files()) == open_before


def test_sizes_only(proc):
    proc["/proc/meminfo"] = "MemTotal:       16 kB\nHugePages_Total:       3\nHugepagesize:    2048 kB\n"
    assert procfs.meminfo_bytes() == {"MemTotal": 16384, "Hugepagesize": 2 << 20}


def test_a_field_that_the_kernel_does_not_write_is_named(proc):
    """Before Linux 3.14, or where a container's /proc/meminfo is another program's."""
    proc["/proc/meminfo"] = "MemTotal:       16 kB\n"
    memory = procfs.meminfo_bytes()
    assert memory.get("MemAvailable") is None
    with pytest.raises(Unavailable, match="/proc/meminfo has no MemAvailable, which"):
        memory["MemAvailable"]


def test_pmd_tables_in_a_field_of_their_own(proc):
    """Linux 4.0 to 4.14."""
    proc["/proc/7/status"] = "VmPTE:\t     120 kB\nVmPMD:\t      12 kB\nVmSwap:\t       0 kB\n"
    assert procfs.vm_pte_bytes(7) == 132 << 10


def test_a_command_name_cannot_pose_as_a_field(proc):
    proc["/proc/7/status"] = "Name:\tx\x0cVmPTE: 9 kB\nState:\tS (sleeping)\n"
    assert procfs.vm_pte_bytes(7) == 0


def test_filesystems(proc):
    proc["/proc/filesystems"] = "nodev\tsysfs\n\text4\nnodev\tmsharefs\n"
    assert procfs.filesystems() == ["sysfs", "ext4", "msharefs"]


def test_settings(proc):
    proc["/proc/sys/vm/overcommit_memory"] = "0\n"
    assert procfs.sysctl("vm.overcommit_memory") == "0"
    assert procfs.sysctl("vm.none_such") is None
    assert procfs.boot_id() == ""


def test_the_boot_has_a_name():
    assert re.fullmatch(r"[0-9a-f-]{36}", procfs.boot_id())


def test_mounts_of_this_host_are_those_the_c_library_sees():
    libc = ctypes.CDLL(None)
    assert libc.getpid() == os.getpid()
    assert {"/", "/proc"} <= {mount.path for mount in mounts.mounts()}
