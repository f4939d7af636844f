# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What on a host would stop a region, or harm it later: trees that look like hosts, and real limits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.errors import MshareError, Unavailable
from mshare.host.limits import Host
from mshare.mount import preflight
from mshare.region.preflight import Wanted, findings, require, warnings
from rig.world import COMMAND, World, new_world

GIB = 1 << 30
KIB_PER_GIB = 1 << 20

# A region of 8 GiB, of which everything is touched at once.
FILLED = Wanted("sga", 512 * GIB, 8 * GIB, prefault=True, attaches=True)
SPARSE = replace(FILLED, prefault=False, attaches=False, simulated=True)
CONSENTED = replace(SPARSE, overcommit=True)
SUPERVISED = replace(FILLED, supervised=True)
HUGE = replace(SPARSE, hugetlb_bytes=GIB)
USERS = replace(SPARSE, uid=1000)

LIMITS = "Limit                     Soft Limit           Hard Limit           Units\n"
POOL = "sys/kernel/mm/hugepages/hugepages-2048kB"
V2 = {
    "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "proc/self/cgroup": "0::/user.slice/session-1.scope\n",
}
V1 = {
    "proc/self/mountinfo": "".join(
        f"{number} 20 0:{number} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
        for number, name in ((31, "memory"), (32, "hugetlb"))
    ),
    # As a container sees it: the path is the host's, and not in its own mount.
    "proc/self/cgroup": "4:memory:/docker/4711\n3:hugetlb:/docker/4711\n",
}


def commit(mode: int, limit_gib: int, promised_gib: int) -> dict[str, str]:
    return {
        "proc/sys/vm/overcommit_memory": f"{mode}\n",
        "proc/meminfo": f"CommitLimit:  {limit_gib * KIB_PER_GIB} kB\n"
        f"Committed_AS: {promised_gib * KIB_PER_GIB} kB\n",
    }


def address_space(soft: int | str) -> dict[str, str]:
    return {"proc/self/limits": f"{LIMITS}Max address space         {soft}     unlimited     bytes\n"}


def pool(total: int, free: int, reserved: int = 0, spare: int = 0) -> dict[str, str]:
    files = {"nr": total, "free": free, "resv": reserved, "nr_overcommit": spare, "surplus": 0}
    return {f"{POOL}/{name}_hugepages": f"{number}\n" for name, number in files.items()}


LOGIND = {"run/systemd/system/there": ""}

# What is on the host, what is wanted, and what is said: "failure: " or "warning: ", and a regular expression.
CASES: dict[str, tuple[dict[str, str], Wanted, list[str]]] = {
    "a host without limits": ({**address_space("unlimited"), **commit(0, 1, 1), **V2}, FILLED, []),
    "address space, and the owner attaches": (
        address_space(4 * GIB),
        FILLED,
        [
            r"failure: region sga needs 512 GiB of address space in each process that attaches, but"
            r" processes started here may have 4 GiB \(RLIMIT_AS, set with ulimit -v in .*\); lift that limit"
        ],
    ),
    "address space, and others will attach": (address_space(4 * GIB), SPARSE, ["warning: .*RLIMIT_AS"]),
    "address space that is enough": (address_space(600 * GIB), FILLED, []),
    "address space by a file of PAM's": (
        {**address_space(4 * GIB), "etc/security/limits.d/db.conf": "# as\noracle hard as 4194304\n"},
        FILLED,
        [r"failure: .*\(RLIMIT_AS, see /etc/security/limits.d/db.conf\)"],
    ),
    "address space of a unit": (
        {},
        replace(SUPERVISED, address_space_limit=(GIB, "LimitAS of the unit")),
        [r"failure: .*may have 1 GiB \(RLIMIT_AS, LimitAS of the unit\)"],
    ),
    "strict overcommit": (
        commit(2, 10, 4),
        FILLED,
        [
            r"failure: region sga needs 8 GiB, but this host, whose vm.overcommit_memory is 2, has 6 GiB left"
            r" to commit .*; raise vm.overcommit_ratio"
        ],
    ),
    "strict overcommit, filled later": (commit(2, 10, 4), SPARSE, ["warning: .*overcommit_memory is 2"]),
    "strict overcommit, never filled": (commit(2, 10, 4), CONSENTED, []),
    "strict overcommit on a kernel": (
        commit(2, 10, 4),
        replace(CONSENTED, simulated=False),
        ["failure: .*overcommit_memory is 2"],
    ),
    "strict overcommit that allows it": (commit(2, 20, 4), FILLED, []),
    "cgroup of the session": (
        {**V2, "sys/fs/cgroup/user.slice/memory.max": f"{4 * GIB}\n"},
        FILLED,
        [
            r"failure: region sga needs 8 GiB when all of it is touched, with its page tables and"
            r" its owner, but its cgroup may take 4 GiB \(/sys/fs/cgroup/user.slice/memory.max\)"
        ],
    ),
    "cgroup of the session, filled later": (
        {**V2, "sys/fs/cgroup/user.slice/memory.max": f"{4 * GIB}\n"},
        SPARSE,
        ["warning: region sga needs"],
    ),
    "cgroup of the session, never filled": (
        {**V2, "sys/fs/cgroup/user.slice/memory.max": f"{4 * GIB}\n"},
        CONSENTED,
        [],
    ),
    "cgroup without a limit": ({**V2, "sys/fs/cgroup/user.slice/memory.max": "max\n"}, FILLED, []),
    "slice above the region's, by its administrator": (
        {**V2, "sys/fs/cgroup/mshare.slice/memory.max": f"{4 * GIB}\n"},
        SUPERVISED,
        [r"failure: .*4 GiB \(/sys/fs/cgroup/mshare.slice/memory.max\)"],
    ),
    "slice below memory_max": (
        {**V2, "sys/fs/cgroup/mshare.slice/memory.max": f"{9 * GIB}\n"},
        replace(SUPERVISED, memory_max_bytes=10 * GIB),
        [r"warning: memory_max of region sga is 10 GiB, but its cgroup may take 9 GiB .*which is reached"],
    ),
    "container, cgroup v1": (
        {
            **V1,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "proc/1/environ": "PATH=/bin\0container=podman\0",
        },
        FILLED,
        [r"failure: .*its cgroup, in a container \(podman\), may take 4 GiB \(/sys/fs/cgroup/memory/memory"],
    ),
    "cgroup v1 without a limit": (
        {**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        FILLED,
        [],
    ),
    "no huge pages": (
        pool(0, 0),
        HUGE,
        [r"failure: region sga needs 512 huge pages of 2 MiB, but this host has 0, .* by 512"],
    ),
    "huge pages of somebody else": (
        pool(600, 600, reserved=200),
        HUGE,
        ["failure: .*of them free: 400;.* by 112"],
    ),
    "huge pages on demand": (pool(0, 0, spare=512), HUGE, []),
    "huge pages enough": (pool(512, 512), HUGE, []),
    "huge pages, and a container may not have them": (
        {**V1, **pool(512, 512), "sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes": "0\n", ".dockerenv": ""},
        HUGE,
        [r"failure: region sga needs 1 GiB in huge pages, .*\(docker\), may take 0 B .*a bus error"],
    ),
    "shared memory removed at logout": (
        {**LOGIND, "etc/systemd/logind.conf.d/mine.conf": "[Login]\nRemoveIPC=yes\n"},
        USERS,
        [
            r"warning: region sga is for uid 1000, .*\(RemoveIPC=yes, /etc/systemd/logind.conf.d/mine.conf\)"
            r".*; set RemoveIPC=no"
        ],
    ),
    "removed at logout as it is shipped": (
        {**LOGIND, "etc/systemd/logind.conf": "#RemoveIPC=yes\n"},
        USERS,
        [r"warning: .*RemoveIPC=yes, /etc/systemd/logind.conf\)"],
    ),
    "not removed": (
        {
            **LOGIND,
            "etc/systemd/logind.conf": "#RemoveIPC=yes\n",
            "etc/systemd/logind.conf.d/mine.conf": "RemoveIPC=no\n",
        },
        USERS,
        [],
    ),
    "removed by nobody where logind does not run": (
        {"etc/systemd/logind.conf": "RemoveIPC=yes\n"},
        USERS,
        [],
    ),
    "system users are left alone": (
        {**LOGIND, "etc/systemd/logind.conf": "RemoveIPC=yes\n"},
        replace(USERS, uid=101),
        [],
    ),
    "what only systemd does": (
        {},
        replace(SPARSE, memory_max_bytes=9 * GIB, units=("database.service",)),
        [
            "warning: memory_max has no effect on this host: systemd does not run here",
            "warning: before has no effect on this host",
        ],
    ),
}


def tree(root: Path, files: dict[str, str]) -> Host:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Host(str(root))


@pytest.mark.parametrize("name", CASES)
def test_what_is_found(tmp_path: Path, name: str) -> None:
    files, wanted, expected = CASES[name]
    found = findings(wanted, tree(tmp_path, files))
    said = [f"{'failure' if one.fatal else 'warning'}: {one.sentence}" for one in found]
    assert len(said) == len(expected), said
    for sentence, pattern in zip(said, expected):
        assert re.match(pattern, sentence), sentence


def test_failures_are_raised_and_warnings_are_not(tmp_path: Path) -> None:
    host = tree(tmp_path, {**commit(2, 10, 4), **pool(0, 0)})
    found = findings(replace(SPARSE, hugetlb_bytes=GIB), host)
    with pytest.raises(MshareError, match="huge pages"):
        require(found)
    assert [text for text in warnings(found) if "overcommit_memory" in text]
    require([one for one in found if not one.fatal])


@pytest.mark.parametrize(
    ("files", "who"),
    [({".dockerenv": ""}, r"this container \(docker\)"), ({}, "the process that started this")],
)
def test_root_that_may_not_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], who: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host = tree(tmp_path, {**files, "proc/self/status": "CapEff:\t00000000a80425fb\n"})
    with pytest.raises(
        Unavailable, match=rf"at /x needs the capability CAP_SYS_ADMIN, which {who} does not give"
    ):
        preflight.require("/x", host)
    preflight.require("/x", tree(tmp_path, {"proc/self/status": "CapEff:\t000001ffffffffff\n"}))


# -- real limits


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as one:
        yield one


def test_a_real_limit_of_address_space(world: World) -> None:
    create = [*COMMAND, "create", "sga", "--size", "64MiB"]
    limited = ["prlimit", f"--as={4 * GIB}:{4 * GIB}"]
    refused = world.run("--pattern", command=[*limited, *create])
    assert refused.returncode == 1
    assert "processes started here may have 4 GiB (RLIMIT_AS" in refused.stderr
    made = world.run(command=[*limited, *create])
    assert made.returncode == 0
    assert "Warning: region sga needs 512 GiB of address space" in made.stderr


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of this test's own that may take 64 MiB."""
    places = [
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ]
    for top, limit in places:
        folder = top / f"mshare-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(64 << 20))
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no memory cgroup can be made on this machine")


def test_a_real_cgroup(world: World, small_cgroup: Path) -> None:
    enter = ["sh", "-c", f'echo $$ >{small_cgroup}/cgroup.procs && exec "$@"', "sh", *COMMAND]
    refused = world.run("create", "sga", "--size", "128MiB", "--prefault", command=enter)
    assert refused.returncode == 1
    assert re.search(rf"its cgroup.* may take 64 MiB \({small_cgroup}/", " ".join(refused.stderr.split()))
    assert world.health("sga") is None
