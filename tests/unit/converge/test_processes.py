# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has no room for: trees that look like hosts, and a real cgroup."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.converge import processes
from mshare.converge.processes import Start
from mshare.errors import MshareError
from mshare.host.limits import Host
from mshare.units import GIB, KIB
from rig.world import COMMAND, World, eventually

ROOM = 64 * GIB
LEAN = Start("sga", 1500, 1501, 256 * KIB, None, supervised=False)
PYTHON = replace(LEAN, client_bytes=4096 * KIB)
BY_SYSTEMD = replace(LEAN, supervised=True)
RESIZED = replace(LEAN, processes=500, launcher_pid=4711, supervised=True)
MANY = replace(LEAN, clients=10_000, processes=10_001)

V2 = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "31 20 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
ROOT = "Uid:\t0\t0\t0\t0\nThreads:\t1\nCapEff:\t000001ffffffffff\n"
USER = "Uid:\t1000\t1000\t1000\t1000\nThreads:\t3\nCapEff:\t0000000000000000\n"
INITIAL = "         0          0 4294967295\n"


def numbers(pid_max: int = 1 << 22, threads_max: int = 1 << 20, used: int = 200) -> dict[str, str]:
    return {
        "proc/sys/kernel/pid_max": f"{pid_max}\n",
        "proc/sys/kernel/threads-max": f"{threads_max}\n",
        "proc/loadavg": f"0.05 0.10 0.20 2/{used} 31337\n",
    }


def memory(available_bytes: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemAvailable: {available_bytes // KIB} kB\n"}


def process(status: str, limit: int | str, pid: str = "self", uid_map: str = INITIAL) -> dict[str, str]:
    return {
        f"proc/{pid}/status": status,
        f"proc/{pid}/limits": f"Max processes             {limit}                 {limit}        processes\n",
        f"proc/{pid}/uid_map": uid_map,
    }


def cgroup(path: str, maximum: int | str, current: int, top: str = "sys/fs/cgroup") -> dict[str, str]:
    folder = f"{top}/{path}"
    return {f"{folder}/pids.max": f"{maximum}\n", f"{folder}/pids.current": f"{current}\n"}


OTHERS = {f"proc/{pid}/status": text for pid, text in ((7, USER), (8, USER), (9, ROOT))}
MINE = {"proc/self/cgroup": "0::/user.slice/a.scope\n", "proc/self/mountinfo": V2}
LAUNCHER = {"proc/4711/cgroup": "0::/mshare.slice/c.service\n", "proc/self/mountinfo": V2}

# What is on the host, what is to be started, and what is said; an empty text: nothing is in the way.
CASES: dict[str, tuple[dict[str, str], Start, str]] = {
    "room for all": (numbers(), LEAN, ""),
    "nothing that is known": ({}, LEAN, ""),
    "pid_max": (
        numbers(pid_max=2000, used=350),
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but kernel.pid_max is 2,000: 350 taken by"
        " processes and threads, 300 reserved, 1,350 left; raise it (`sysctl -w kernel.pid_max=2151`, at"
        " most 4194304), or ask for at most 1,349 clients",
    ),
    "the last number of pid_max": (numbers(pid_max=2151, used=350), LEAN, ""),
    "threads-max": (
        numbers(threads_max=1600, used=200),
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but kernel.threads-max is 1,600: 200 taken"
        " by processes and threads, 1,400 left; raise it (`sysctl -w kernel.threads-max=1701`), or ask for"
        " at most 1,399 clients",
    ),
    "a user's limit": (
        {**numbers(), **process(USER, 1000), **OTHERS},
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but RLIMIT_NPROC of this user is 1,000: 6"
        " taken by its processes and threads, 994 left; raise it to 1507 (`ulimit -u`, LimitNPROC=, or nproc"
        " in /etc/security/limits.conf), or ask for at most 993 clients",
    ),
    "a user without a limit": ({**numbers(), **process(USER, "unlimited"), **OTHERS}, LEAN, ""),
    "root's limit does not hold": ({**numbers(), **process(ROOT, 10), **OTHERS}, LEAN, ""),
    "nor that of who has the capability": (
        {**numbers(), **process(USER.replace("0000000000000000", "0000000001000000"), 10), **OTHERS},
        LEAN,
        "",
    ),
    "but in a user namespace it does": (
        {**numbers(), **process(ROOT, 10, uid_map="0 100000 65536\n"), **OTHERS},
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but RLIMIT_NPROC of this user is 10: 1"
        " taken by its processes and threads, 9 left; raise it to 1502 (`ulimit -u`, LimitNPROC=, or nproc"
        " in /etc/security/limits.conf), or ask for at most 8 clients",
    ),
    "a user's limit, and systemd starts them for root": (
        {**numbers(), **process(USER, 10), **OTHERS},
        BY_SYSTEMD,
        "",
    ),
    "a cgroup above": (
        {**numbers(), **MINE, **cgroup("user.slice/a.scope", "max", 3), **cgroup("user.slice", 1000, 100)},
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but /sys/fs/cgroup/user.slice/pids.max is"
        " 1,000: 100 taken by what is in that cgroup, 900 left; raise it to 1601 (TasksMax=, or in that"
        " file), or ask for at most 899 clients",
    ),
    "a cgroup of version 1": (
        {
            **numbers(),
            "proc/self/cgroup": "3:pids:/a\n",
            "proc/self/mountinfo": V1,
            **cgroup("a", 100, 1, "sys/fs/cgroup/pids"),
        },
        LEAN,
        "1,500 clients of region sga need 1,501 more processes, but /sys/fs/cgroup/pids/a/pids.max is 100:"
        " 1 taken by what is in that cgroup, 99 left; raise it to 1502 (TasksMax=, or in that file), or ask"
        " for at most 98 clients",
    ),
    "the cgroup of this process, and systemd starts them in another": (
        {**numbers(), **MINE, **cgroup("user.slice", 1000, 100)},
        BY_SYSTEMD,
        "",
    ),
    "the slice that systemd starts them in": (
        {**numbers(), **MINE, **cgroup("mshare.slice", 1000, 100)},
        BY_SYSTEMD,
        "1,500 clients of region sga need 1,501 more processes, but /sys/fs/cgroup/mshare.slice/pids.max is"
        " 1,000: 100 taken by what is in that cgroup, 900 left; raise it to 1601 (TasksMax=, or in that"
        " file), or ask for at most 899 clients",
    ),
    "the cgroup of the launcher that runs": (
        {**numbers(), **LAUNCHER, **cgroup("mshare.slice/c.service", 1400, 1001)},
        RESIZED,
        "1,500 clients of region sga need 500 more processes, but"
        " /sys/fs/cgroup/mshare.slice/c.service/pids.max is 1,400: 1,001 taken by what is in that cgroup,"
        " 399 left; raise it to 1501 (TasksMax=, or in that file), or ask for at most 1,399 clients",
    ),
    "fewer than run": ({**numbers(pid_max=300)}, replace(RESIZED, processes=0), ""),
    "10,000 lean clients in 24 GiB": ({**numbers(), **memory(24 * GIB)}, MANY, ""),
    "10,000 of Python's in 24 GiB": (
        {**numbers(), **memory(24 * GIB)},
        replace(MANY, client_bytes=4096 * KIB),
        "10,000 clients of region sga need at least 39.2 GiB more, but only half of this host's available 24"
        " GiB may be used; free some memory, or ask for at most 3,062 clients",
    ),
    "all is too small, and each is said": (
        {**numbers(pid_max=1000, threads_max=900)},
        replace(LEAN, clients=1, processes=701),
        "1 client of region sga needs 701 more processes, but kernel.pid_max is 1,000: 200 taken by"
        " processes and threads, 300 reserved, 500 left; raise it (`sysctl -w kernel.pid_max=1201`, at most"
        " 4194304), or end some other processes. 1 client of region sga needs 701 more processes, but"
        " kernel.threads-max is 900: 200 taken by processes and threads, 700 left; raise it (`sysctl -w"
        " kernel.threads-max=901`), or end some other processes",
    ),
}


def tree(place: Path, files: dict[str, str]) -> Host:
    for name, text in {**memory(ROOM), **files}.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(str(place), keeps=True)


@pytest.mark.parametrize("case", CASES)
def test_what_there_is_no_room_for(tmp_path: Path, case: str) -> None:
    files, start, sentence = CASES[case]
    host = tree(tmp_path, files)
    if not sentence:
        processes.check([start], host)
        return
    with pytest.raises(MshareError) as refused:
        processes.check([start], host)
    assert str(refused.value) == sentence


def test_those_of_several_regions_need_their_room_together(tmp_path: Path) -> None:
    host = tree(tmp_path, {**numbers(threads_max=2000), **memory(GIB)})
    ledger = replace(LEAN, region="ledger")
    for one in (LEAN, ledger):
        processes.check([one], host)
    with pytest.raises(MshareError) as refused:
        processes.check([LEAN, ledger], host)
    assert str(refused.value) == (
        "the clients of regions sga, ledger together need 3,002 more processes, but kernel.threads-max is"
        " 2,000: 200 taken by processes and threads, 1,800 left; raise it"
        " (`sysctl -w kernel.threads-max=3202`), or end some other processes. the clients of regions sga,"
        " ledger together need at least 785.7 MiB more, but only half of this host's available 1 GiB may be"
        " used; free some memory, or end some other processes"
    )


def _remove(folder: Path) -> None:
    """What has just ended keeps its cgroup for a moment."""

    def removed() -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    eventually(removed)


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of this test's own for 20 processes."""
    for top in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        folder = top / f"mshare-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / "pids.max").write_text("20")
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder
        _remove(folder)
        return
    pytest.skip("no cgroup that limits processes can be made on this machine")


def test_a_real_cgroup(here: World, small_cgroup: Path) -> None:
    enter = ["sh", "-c", f'echo $$ >{small_cgroup}/cgroup.procs && exec "$@"', "sh", *COMMAND]
    with here.owned() as owner:
        before = here.files()
        for check in ([], ["--check"]):
            refused = here.run("clients", "start", "sga", "--count", "30", *check, command=enter)
            sentence = " ".join(refused.stderr.split())
            assert refused.returncode == 1
            assert f"need 31 more processes, but {small_cgroup}/pids.max is 20: 1 taken by" in sentence
            assert "or ask for at most 18 clients" in sentence
            assert here.files() == before
            assert here.processes() == [owner.pid]
        made = here.run("clients", "start", "sga", "--count", "10", command=enter)
        assert made.returncode == 0, made.stderr
        more = here.run("clients", "start", "sga", "--count", "30")
        assert more.returncode == 1
        assert "30 clients of region sga need 20 more processes, but" in " ".join(more.stderr.split())
        assert here.json("clients", "status", "sga")["clients"]["attached"] == 10
        here.ok("clients", "stop", "sga")
