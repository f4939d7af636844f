# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload under limits that end a program at its first touch: it starts as it would without."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mshare.preload import library as preload_library
from mshare.preload.settings import Settings
from rig import huge_pages, shapes
from rig.shapes import MIB, Shape
from rig.world import World, new_world

SIZE_BYTES = 64 * MIB
LIMIT_BYTES = 32 * MIB
KINDS = ("anonymous", "sysv", "posix")

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root sets these limits")


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


def shell(script: str) -> list[str]:
    """A command that runs another one at the end of a script."""
    return ["sh", "-ec", f'{script}\nexec "$@"', "sh"]


def private_mounts(script: str) -> list[str]:
    return ["unshare", "-m", *shell(script)]


def alike(shape: Shape, settings: Settings, library: str, within: list[str]) -> list[str]:
    """What is told to a program that answers as without the preload."""
    wanted = shapes.run(shape, within=within)[0]
    assert wanted.code == 0, wanted
    found, lines = shapes.run(shape, settings.environment(library), within)
    assert found == wanted, lines
    return lines


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of version 1 with a limit."""
    top = Path("/sys/fs/cgroup/memory")
    if not (top / "tasks").exists():
        pytest.skip("no memory cgroups of version 1 on this machine")
    path = top / f"mshare-test-{os.getpid()}"
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield path
    path.rmdir()


@pytest.mark.parametrize("kind", KINDS)
class TestMemoryCgroup:
    def test_the_program_starts(self, library, cgroup, world, kind):
        shape = Shape(kind, "unmap", SIZE_BYTES)
        within = shell(f"echo $$ > {cgroup}/tasks")
        for settings in (Settings("thp"), Settings("4k", "simulated", str(world.root))):
            (line,) = alike(shape, settings, library, within)
            assert "needs more memory than its cgroup may still take" in line
            assert f"by memory.limit_in_bytes of {cgroup}" in line

    def test_required(self, library, cgroup, kind):
        within = shell(f"echo $$ > {cgroup}/tasks")
        settings = Settings("thp", require=True)
        found, (line,) = shapes.run(Shape(kind, "fill", SIZE_BYTES), settings.environment(library), within)
        assert f"{kind} ENOMEM" in found.output
        assert line.endswith("; refused, because MSHARE_PRELOAD_REQUIRE=1 (--require) is set")


V2 = {"memory.max": str(LIMIT_BYTES), "memory.current": "4096"}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (V2, "(32.0 MiB, by memory.max of /sys/fs/cgroup)"),
        ({**V2, "memory.max": "max", "memory.high": str(LIMIT_BYTES)}, "by memory.high of /sys/fs/cgroup)"),
        ({**V2, "memory.current": str(2 * LIMIT_BYTES)}, "(0 B, by memory.max"),
        ({**V2, "memory.max": "max"}, None),
        ({"memory.max": str(2 * SIZE_BYTES), "memory.current": "4096"}, None),
        (
            {
                "memory.max": str(2 * SIZE_BYTES),
                "memory.current": str(2 * SIZE_BYTES),
                "memory.stat": f"anon 4096\ninactive_file {SIZE_BYTES}\nactive_file {SIZE_BYTES}\n",
            },
            None,
        ),
        ({"memory.max": "", "memory.current": "nonsense"}, None),
    ],
)
def test_a_memory_cgroup_of_version_2(library, tmp_path, files, sentence):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    within = private_mounts(f"mount --bind {tmp_path} /sys/fs/cgroup")
    lines = alike(Shape("anonymous", "unmap", SIZE_BYTES), Settings("thp"), library, within)
    assert len(lines) == (sentence is not None)
    assert sentence is None or sentence in lines[0]


NODE_KIB = {"MemFree:": 8 << 10, "Active(file):": 4 << 10, "Inactive(file):": 4 << 10, "MemTotal:": 1 << 30}


@pytest.mark.parametrize(("nodes", "sentence"), [("0-1", "(16 MiB, on memory node 0)"), ("0", None)])
def test_a_cpuset_with_a_part_of_the_memory_nodes(library, tmp_path, nodes, sentence):
    """This machine has one node, which is shown as a small one of two."""
    (tmp_path / "has_memory").write_text(f"{nodes}\n")
    (tmp_path / "node0").mkdir()
    lines = [f"Node 0 {name:16}{kib} kB\n" for name, kib in NODE_KIB.items()]
    (tmp_path / "node0" / "meminfo").write_text("".join(lines))
    within = private_mounts(f"mount --bind {tmp_path} /sys/devices/system/node")
    told = alike(Shape("anonymous", "unmap", SIZE_BYTES), Settings("thp"), library, within)
    assert len(told) == (sentence is not None)
    assert sentence is None or f"needs more memory than its cpuset allows {sentence}" in told[0]


def test_a_cgroup_of_huge_pages(library, tmp_path):
    (tmp_path / "hugetlb.2MB.max").write_text(str(2 * MIB))
    (tmp_path / "hugetlb.2MB.current").write_text("0")
    within = private_mounts(f"mount --bind {tmp_path} /sys/fs/cgroup")
    with huge_pages.reserved(2):
        shape = Shape("anonymous", "fill", 4 * MIB)
        settings = Settings("hugetlb", threshold_bytes=MIB)
        (line,) = alike(shape, settings, library, within)
    assert "its cgroup may take only 2 MiB more of huge pages (hugetlb.2MB.max of /sys/fs/cgroup)" in line


@pytest.mark.parametrize("kind", ["posix", "posix_unlinked", "posix_larger", "posix_before", "posix_offset"])
def test_posix_memory_larger_than_its_tmpfs(library, kind):
    within = private_mounts("mount -t tmpfs -o size=8m shm /dev/shm")
    lines = alike(Shape(kind, "unmap", SIZE_BYTES), Settings("thp"), library, within)
    if kind != "posix_before":
        (line,) = lines
        assert "the tmpfs at /dev/shm has room for 8 MiB only; give it more; kept as it is" in line


def test_posix_memory_that_may_only_be_read(library, tmp_path):
    """A reader maps a file that is larger than its tmpfs."""
    script = f"mount -t tmpfs -o size=8m shm /dev/shm; truncate -s {SIZE_BYTES} /dev/shm/larger"
    program = (
        "import mmap, os, sys;"
        "fd = os.open('/dev/shm/larger', os.O_RDONLY);"
        f"print(mmap.mmap(fd, {SIZE_BYTES}, prot=mmap.PROT_READ)[0])"
    )
    done = subprocess.run(
        [*private_mounts(script), sys.executable, "-c", program],
        env={**os.environ, **Settings("thp", verbose=True).environment(library)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"
    assert "placed POSIX shared memory" in done.stderr


def test_a_full_huge_directory(library, tmp_path):
    within = private_mounts(f"mount -t tmpfs -o huge=always,size=8m huge {tmp_path}")
    for prefault in (True, False):
        settings = Settings("thp", huge_directory=str(tmp_path), prefault=prefault)
        (line,) = alike(Shape("anonymous", "fill", SIZE_BYTES), settings, library, within)
        assert f"the tmpfs at {tmp_path} has room for 8 MiB only; give it more; left to the kernel" in line


def test_a_full_root_without_prefault(library, tmp_path):
    make = (
        "import sys; from mshare.backends.simulated.layout import Layout;"
        " Layout.create(sys.argv[1], '2025-08')"
    )
    library_path = Path(preload_library.__file__).parents[2]
    script = (
        f"mount -t tmpfs -o size=8m mshare {tmp_path};"
        f' env -u LD_PRELOAD PYTHONPATH={library_path} {sys.executable} -c "{make}" {tmp_path}'
    )
    settings = Settings("4k", "simulated", str(tmp_path), prefault=False)
    (line,) = alike(Shape("anonymous", "fill", SIZE_BYTES), settings, library, private_mounts(script))
    assert f"the tmpfs at {tmp_path} has room for " in line


@pytest.mark.parametrize("kind", ["anonymous", "sysv"])
def test_a_limit_of_file_sizes(library, world, tmp_path, kind):
    """Whoever writes beyond it gets SIGXFSZ."""
    settings = [
        Settings("4k", "simulated", str(world.root)),
        Settings("4k", "simulated", str(world.root), prefault=False),
        *([Settings("thp", huge_directory=str(tmp_path))] if kind == "anonymous" else []),
    ]
    with world.owned("sga", "--size", "128MiB"):
        existing = Settings("4k", "simulated", str(world.root), region="sga")
        for each in (*settings, existing):
            (line,) = alike(Shape(kind, "fill", SIZE_BYTES), each, library, shell("ulimit -f 100"))
            assert "larger than RLIMIT_FSIZE (ulimit -f) allows" in line


def test_few_descriptors(library, world):
    settings = Settings("4k", "simulated", str(world.root), verbose=True)
    (line,) = alike(Shape("anonymous", "fill", SIZE_BYTES), settings, library, shell("ulimit -n 10"))
    assert "took over" in line
    (line,) = alike(Shape("anonymous", "fill", SIZE_BYTES), settings, library, shell("ulimit -n 4"))
    assert "left to the kernel" in line


def test_explicit_huge_pages_of_an_odd_size(library):
    """The kernel maps whole pages of them: what lies behind must not be written over."""
    shape = Shape("sysv_huge", "fill", 3 * MIB - 100)
    with huge_pages.reserved(16):
        for pages in ("thp", "hugetlb"):
            settings = Settings(pages, threshold_bytes=MIB, verbose=True)
            lines = alike(shape, settings, library, [])
            assert all(("placed" if pages == "thp" else "took over") in line for line in lines)


def test_a_pipe_that_nobody_reads(library):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [shapes.program(), "anonymous", str(SIZE_BYTES), "fill"],
        env={**os.environ, **Settings("thp", verbose=True).environment(library)},
        stdout=subprocess.PIPE,
        stderr=writing,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0


def test_a_file_of_the_programs_own_as_stderr(library):
    settings = Settings("thp", verbose=True)
    lines = alike(Shape("anonymous", "data_as_stderr", SIZE_BYTES), settings, library, [])
    assert len(lines) == 1, "of the first segment, when stderr was what it was at the start"


@pytest.mark.skipif(
    shutil.which("postgres") is None and not Path("/usr/lib/postgresql").exists(), reason="no server"
)
def test_postgresql_larger_than_its_cgroup(library, cgroup, monkeypatch):
    from rig import postgresql

    if postgresql.missing() is not None:
        pytest.skip(postgresql.missing())
    (own,) = re.findall(r"(?m)^\d+:memory:/?(.*)$", Path("/proc/self/cgroup").read_text())
    (cgroup / "memory.limit_in_bytes").write_text(str(150 * MIB))
    (cgroup / "tasks").write_text(str(os.getpid()))
    try:
        for name, value in Settings("thp").environment(library).items():
            monkeypatch.setenv(name, value)
        with postgresql.server("200MB", port=5613) as server, server.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert "its cgroup may still take" in (server.directory / "log").read_text(errors="replace")
    finally:
        Path("/sys/fs/cgroup/memory", own, "tasks").write_text(str(os.getpid()))
