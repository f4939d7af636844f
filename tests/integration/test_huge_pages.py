# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's real pool: made for a real PostgreSQL and for stand-ins of Oracle, used, and given back."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import clusters
from integration.clusters import Cluster
from integration.hosts import Host, Run
from mshare.host import procfs
from mshare.units import MIB
from rig import huge_pages

SYSCTL = "/etc/sysctl.d/60-mshare-huge-pages.conf"
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
# Processes with the titles of Oracle's, which share a SysV segment, from the pool if they are told to.
ORACLE = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.prctl(15, sys.argv[1].encode(), 0, 0, 0)
size = int(sys.argv[2])
number = libc.shmget(0, ctypes.c_size_t(size), 0o600 | 0o1000 | int(sys.argv[3]))
assert number >= 0, os.strerror(ctypes.get_errno())
address = libc.shmat(number, None, 0)
libc.shmctl(number, 0, None)
for at in range(address, address + size, 1 << 21):
    ctypes.memset(at, 1, 1)
os.fork()
os.write(1, b"ready\\n")
signal.pause()
"""
SHM_HUGETLB = 0o4000


def pages(which: str) -> int:
    return int((POOL / f"{which}_hugepages").read_text())


@pytest.fixture
def pool() -> Iterator[int]:
    with huge_pages.alone() as before:
        yield before


@pytest.fixture
def empty_pool(pool: int) -> int:
    """Free pages of others would serve a test's program as well as those that it is to have."""
    if pool:
        pytest.skip("this machine has huge pages reserved")
    return pool


def role(host: Host, *flags: str, **variables: Any) -> Run:
    return host.play(
        [{"ansible.builtin.include_role": {"name": "dbmem.mshare.huge_pages"}}],
        *flags,
        vars={f"mshare_huge_pages_{name}": value for name, value in variables.items()},
    )


def result(run: Run) -> Any:
    return run.succeeded()["Reserve huge pages"]


@contextlib.contextmanager
def oracle(host: Host, size_bytes: int, flags: int = 0) -> Iterator[None]:
    words = ["-c", ORACLE, "ora_pmon_ORCL", str(size_bytes), str(flags)]
    # The title is what the program is called.
    command = host.command(
        "bash",
        "-c",
        'exec -a ora_pmon_ORCL "$0" "$@"',
        sys.executable,
        *words,
        environment={"PYTHONHOME": sys.base_prefix},
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            for __ in range(2):
                assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            host.kill(*(pid for pid in oracle_pids(host)))
            process.kill()


def oracle_pids(host: Host) -> list[int]:
    listed = host.do("pgrep", "-f", "^ora_pmon_ORCL").split()
    return [int(pid) for pid in listed]


def test_a_pool_is_reserved_and_given_back_with_every_file(host: Host, pool: int) -> None:
    before = host.snapshot()
    checked = result(role(host, "--check", "--diff", pages=[{"wanted": pool + 5}]))
    assert checked["changed"]
    assert pages("nr") == pool
    assert host.changed_since(before) == []
    done = result(role(host, "--diff", pages=[{"wanted": pool + 5}]))
    assert done["pools"][0]["granted"] == pages("nr") == pool + 5
    assert done["live"]["state"] == "as wanted"
    assert f"vm.nr_hugepages = {pool + 5}\n" in host.inside(SYSCTL).read_text()
    # What check mode foretold is what was done.
    assert checked["diff"] == done["diff"]
    assert not result(role(host, pages=[{"wanted": pool + 5}]))["changed"]
    assert result(role(host, state="absent"))["changed"]
    assert pages("nr") == pool
    assert host.changed_since(before) == []


def test_a_node_has_a_pool_of_its_own(host: Host, pool: int) -> None:
    node = Path("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")
    if not node.exists():
        pytest.skip("this machine shows no NUMA node")
    before = int(node.read_text())
    done = result(role(host, pages=[{"wanted": before + 3, "node": 0}], persist=False))
    assert done["pools"][0]["granted"] == int(node.read_text()) == before + 3
    result(role(host, state="absent"))
    assert int(node.read_text()) == before


def test_pages_that_a_program_reserved_are_not_taken(host: Host, empty_pool: int) -> None:
    result(role(host, pages=[{"wanted": empty_pool + 6}], persist=False))
    with huge_pages.held(4):
        refused = role(host, pages=[{"wanted": empty_pool + 2}], persist=False)
        assert "are in use or reserved" in refused.said
        assert f"cannot have {empty_pool + 2}" in refused.said
        assert pages("nr") == empty_pool + 6
        assert "are in use or reserved" in role(host, state="absent").said
        assert pages("nr") == empty_pool + 6
    result(role(host, state="absent"))
    assert pages("nr") == empty_pool


def test_files_that_nobody_has_open_keep_their_pages_and_are_named(host: Host, empty_pool: int) -> None:
    """As DPDK and QEMU have them: the pool of a host that others use."""
    result(role(host, pages=[{"wanted": empty_pool + 6}], persist=False))
    host.do("mkdir", "-p", "/run/huge")
    host.do("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", "/run/huge")
    try:
        # A write is not possible there; its pages are taken when they are touched.
        program = (
            "import mmap, os; f = os.open('/run/huge/rtemap_0', os.O_CREAT | os.O_RDWR);"
            " os.ftruncate(f, 4 << 21); m = mmap.mmap(f, 4 << 21)\n"
            "for at in range(0, 4 << 21, 1 << 21): m[at] = 1"
        )
        host.do("/usr/bin/python3", "-c", program)
        for refused in (
            role(host, pages=[{"wanted": empty_pool + 2}], persist=False),
            role(host, state="absent"),
        ):
            assert "by the files /run/huge/rtemap_0 (4 pages)" in refused.said
        assert pages("nr") == empty_pool + 6
    finally:
        host.do("rm", "-f", "/run/huge/rtemap_0")
        host.do("umount", "/run/huge")
        host.do("rmdir", "/run/huge")
    result(role(host, state="absent"))
    assert pages("nr") == empty_pool


def test_more_than_the_host_has_is_refused_with_figures(host: Host, pool: int) -> None:
    before = host.snapshot()
    refused = role(host, pages=[{"wanted": "900TiB"}])
    assert "all pools of huge pages would take" in refused.said
    refused = role(host, pages=[{"wanted": "900TiB"}], share_of_ram_max=1.0)
    assert "share_of_ram_max 1" in refused.said
    # All of the RAM is more than what is available, by what the kernel itself has.
    memory_bytes = procfs.meminfo_bytes()["MemTotal"]
    refused = role(host, pages=[{"wanted": memory_bytes // (2 * MIB)}], share_of_ram_max=1.0)
    assert "available (MemAvailable, measured)" in refused.said
    assert pages("nr") == pool
    assert host.changed_since(before) == []


def test_another_file_that_sets_the_pool_is_a_conflict(host: Host, pool: int) -> None:
    host.do("mkdir", "-p", "/etc/sysctl.d")
    other = host.inside("/etc/sysctl.d/97-oracle.conf")
    other.write_text("vm.nr_hugepages = 3\n")
    try:
        refused = role(host, pages=[{"wanted": pool + 2}])
        assert "(ours), then /etc/sysctl.d/97-oracle.conf (vm.nr_hugepages = 3)" in refused.said
    finally:
        other.unlink()
    assert pages("nr") == pool


def test_where_sys_is_read_only_one_sentence_says_so(host: Host, pool: int) -> None:
    words = "mount -o remount,bind,ro /sys && exec"
    lib = Path(__file__).parents[2] / "lib"
    command = host.command(
        *("unshare", "--mount", "sh", "-c", f'{words} "$0" "$@"', sys.executable, "-m", "mshare"),
        *("huge-pages", "--want", str(pool + 1), "--no-boot"),
        environment={"PYTHONPATH": str(lib), "PATH": "/usr/bin:/bin:/usr/sbin"},
    )
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 4, refused.stderr
    assert refused.stderr.count("\n") == 1
    # The machine of the tests may be a container itself.
    assert "nr_hugepages cannot be written: " in refused.stderr
    assert "run this on the machine itself" in refused.stderr
    assert pages("nr") == pool


def test_an_oracle_is_prepared_for_and_verified_after_its_restart(host: Host, empty_pool: int) -> None:
    with oracle(host, 16 * MIB):
        prepared = result(role(host, pages=[{"wanted": "auto"}], spare="2", persist=False))
        (facts,) = prepared["oracle"]
        assert (facts["sid"], facts["done"]) == ("ORCL", False)
        assert facts["reason"].startswith("0 B of its 16 MiB")
        assert "ALTER SYSTEM SET use_large_pages='ONLY' SCOPE=SPFILE;" in facts["sql"]
        terms = {term["what"]: term["pages"] for term in prepared["pools"][0]["formula"]}
        assert terms["oracle ORCL"] == 8
        assert terms["spare"] == 2
    # Its administrator has restarted it.
    with oracle(host, 16 * MIB, SHM_HUGETLB):
        verified = result(role(host, pages=[{"wanted": "auto"}], spare="2", persist=False))
        (facts,) = verified["oracle"]
        assert facts["done"]
        assert facts["reason"].startswith("16 MiB of its 16 MiB")
        assert not verified["changed"]
    result(role(host, state="absent"))
    assert pages("nr") == empty_pool


@pytest.mark.skipif(clusters.missing() is not None, reason=str(clusters.missing()))
def test_a_real_postgresql_starts_in_the_pool_that_was_made_for_it(host: Host, empty_pool: int) -> None:
    cluster = Cluster(host)
    cluster.create(shared_buffers="32MB", huge_pages="try")
    try:
        small = int(cluster.sql("SHOW shared_memory_size_in_huge_pages"))
        # Configured, and not what runs now.
        cluster.sql("ALTER SYSTEM SET shared_buffers = '64MB'")
        done = result(role(host, pages=[{"wanted": "auto"}], spare="1", persist=False))
        terms = {term["what"].split()[0]: term for term in done["pools"][0]["formula"]}
        needed = terms["postgresql"]["pages"]
        assert needed >= small + 16
        assert terms["postgresql"]["kind"] == "configured"
        cluster.control("restart")
        assert int(cluster.sql("SHOW shared_memory_size_in_huge_pages")) == needed
        assert "anon_hugepage" in clusters.mapped(host, cluster.pid).path
        # Run again there is nothing left to do, and what it has is not taken away.
        again = result(role(host, pages=[{"wanted": "auto"}], spare="1", persist=False))
        assert not again["changed"], json.dumps(again["pools"], indent=1)
        refused = role(host, state="absent")
        assert "in use or reserved, by postgresql" in refused.said
    finally:
        cluster.control("stop")
    # Now it is not counted. What its start takes is told, and is what it took.
    (warning,) = result(role(host, "--check", pages=[{"wanted": "auto"}], persist=False))["warnings"]
    assert warning.startswith(
        f"PostgreSQL cluster 15-main does not run, so the {needed} pages of 2 MiB that it takes at its start"
        " are not counted"
    )
    result(role(host, state="absent"))
    assert pages("nr") == empty_pool


def test_a_pool_that_others_made_smaller_is_not_made_larger_again(host: Host, pool: int) -> None:
    before = host.snapshot()
    result(role(host, pages=[{"wanted": pool + 6}]))
    (POOL / "nr_hugepages").write_text(str(pool + 4))
    back = result(role(host, state="absent"))
    (warning,) = back["warnings"]
    assert (
        f"the pool of 2 MiB pages stays at {pool + 4} pages: it had {pool + 6} after the last run" in warning
    )
    assert pages("nr") == pool + 4
    assert host.changed_since(before) == []
    assert not result(role(host, state="absent"))["changed"]
