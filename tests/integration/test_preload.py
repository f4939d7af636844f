# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload with programs that share memory, on this kernel: huge pages, and regions on the simulator."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mshare.backends.connect import connect
from mshare.preload import library as preload_library
from mshare.preload.settings import FILE_NAME, Settings
from mshare.region.region import Region
from rig import huge_pages, sharing
from rig.patience import HANG_SECONDS
from rig.sharing import MIB, SIZE_BYTES
from rig.world import NOBODY, World, new_world

PROGRAM = [sys.executable, str(Path(sharing.__file__))]
HUGE_BYTES = 2 * MIB
LEAF_KIB = SIZE_BYTES // 512 // 1024
"""What leaf tables for the segment cost a process with small pages."""
SAVED_KIB = LEAF_KIB * 3 // 4
"""So much of them at least is gone: where a process's other memory lies is chance, and so are some tables."""


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


class Preloaded:
    """Programs with the preload."""

    def __init__(self, library: str, settings: Settings) -> None:
        self.environment = {**os.environ, **settings.environment(library)}

    def run(self, *words: str) -> tuple[list[Any], list[str]]:
        """What the program answers, and the lines on stderr."""
        done = subprocess.run(
            [*PROGRAM, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()

    @contextlib.contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [*PROGRAM, *words],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def read(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def release(process: subprocess.Popen[str]) -> str:
    """Let a program that waits go on to its end; what it says then."""
    said, errors = process.communicate("\n", timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    return said


def collapse(pid: int, address: int) -> str | None:
    """MADV_COLLAPSE of a segment from outside; why not, or None."""
    pidfd_open, process_madvise, madv_collapse = 434, 440, 25
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(pidfd_open, pid, 0)
    range_ = (ctypes.c_size_t * 2)(address, SIZE_BYTES)
    done = libc.syscall(process_madvise, fd, range_, ctypes.c_size_t(1), madv_collapse, 0)
    reason = os.strerror(ctypes.get_errno()) if done < 0 else None
    os.close(fd)
    return reason


@pytest.fixture
def thp(library: str) -> Preloaded:
    return Preloaded(library, Settings("thp", verbose=True))


@pytest.fixture
def simulated(library: str, world: World) -> Preloaded:
    return Preloaded(library, Settings("4k", "simulated", str(world.root), verbose=True))


def small_pages_kib() -> int:
    """VmPTE of a child that touched the whole segment, without the preload."""
    done = subprocess.run([*PROGRAM, "anonymous"], check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[0])["child"]["vm_pte_kib"])


class TestThp:
    def test_anonymous_memory(self, thp):
        answers, lines = thp.run("anonymous")
        for looked in (answers[0], answers[3]):
            assert looked["fresh"]
            assert (looked["child"]["seen"], looked["written"]) == (7, 9)
            assert looked["address"] % HUGE_BYTES == 0
            assert looked["huge_kib"] == SIZE_BYTES // 1024
        assert [answers[2], answers[5]] == [{"left": False}] * 2
        assert len(lines) == 2
        assert "took over anonymous shared memory of 64 MiB: thp, at 0x" in lines[0]
        assert "prefault " in lines[0]
        assert "64 MiB of it in huge pages" in lines[0]

    def test_page_tables_of_a_child(self, thp):
        answers, __ = thp.run("anonymous")
        assert small_pages_kib() - answers[0]["child"]["vm_pte_kib"] >= SAVED_KIB

    def test_a_sysv_segment_stays_one(self, thp):
        answers, lines = thp.run("sysv")
        looked, child, detached, again, removed = *answers[:4], answers[4]
        assert (looked["segment_size"], looked["attached"]) == (SIZE_BYTES - 100, 1)
        assert looked["start"] % HUGE_BYTES == 0
        assert looked["huge_kib"] == SIZE_BYTES // 1024
        assert looked["file"].startswith("/SYSV")
        assert child == {"seen": 7, "attached": 2, "detached": "ok", "then": 1, "written": 9}
        assert detached == ["ok", 0, False]
        assert again == [7, 9], "a SysV segment keeps what is in it"
        assert removed == ["ok", 1]
        assert "took over a SysV segment of" in lines[0]

    def test_posix_shared_memory(self, thp):
        answers, lines = thp.run("posix")
        assert answers[0].startswith("/dev/shm/psm_")
        assert answers[1][0] == 7
        assert answers[2] == 9
        assert sum("took over POSIX shared memory" in line for line in lines) == 2

    def test_small_and_private_memory_is_left_alone(self, thp):
        for step in ("small", "private", "dsm"):
            __, lines = thp.run(step)
            assert lines == [], step

    def test_sparse_and_protected_memory_is_left_alone(self, thp):
        assert thp.run("special") == ([["/dev/zero (deleted)", "ok"]] * 3, [])

    @pytest.mark.skipif(os.getuid() != 0, reason="only root covers /proc/meminfo for a program")
    def test_nothing_is_prefaulted_that_memory_is_not_there_for(self, library, world, tmp_path):
        meminfo = tmp_path / "meminfo"
        meminfo.write_text("MemTotal: 30000 kB\nMemFree: 9000 kB\nMemAvailable: 10240 kB\n")
        covered = f'mount --bind {meminfo} /proc/meminfo && exec "$@"'
        for settings in (Settings("thp"), Settings("4k", "simulated", str(world.root))):
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", covered, "sh", *PROGRAM, "refused"],
                env={**os.environ, **settings.environment(library)},
                capture_output=True,
                text=True,
                timeout=HANG_SECONDS,
                check=True,
            )
            assert json.loads(done.stdout) == "ok"
            assert "needs more memory than is available (10 MiB); make it smaller" in done.stderr
            assert done.stderr.count("\n") == 1
        assert world.files() == []

    def test_the_threshold_can_be_lowered(self, library):
        preloaded = Preloaded(library, Settings("thp", threshold_bytes=4 * MIB, verbose=True))
        ((looked,), lines) = preloaded.run("small")
        assert looked["huge_kib"] == 8 * 1024
        assert len(lines) == 1

    def test_without_prefault_it_is_only_aligned(self, library):
        """So that huge pages can be made of it later, from outside as well."""
        aligned = Preloaded(library, Settings("thp", prefault=False, require=True, verbose=True))
        answers, (line,) = aligned.run("refused")
        assert answers == ["ok"]
        with aligned.started("stay") as process:
            address = read(process)
            assert address % HUGE_BYTES == 0
            rss = Path(f"/proc/{process.pid}/status").read_text().split("RssShmem:")[1].split()[0]
            assert int(rss) == 0, "nothing is touched"
        assert "placed anonymous shared memory of 64 MiB: thp, at 0x" in line
        assert ", aligned for huge pages, which its use (shmem_enabled is " in line

    @pytest.mark.skipif(os.getuid() != 0, reason="only root advises another process's memory")
    def test_what_is_aligned_can_be_collapsed_from_outside(self, library):
        with Preloaded(library, Settings("thp", prefault=False)).started("fill_and_stay") as process:
            address = read(process)
            reason = collapse(process.pid, address)
            if reason is not None:
                pytest.skip(f"this kernel collapses no memory of another process ({reason})")
            smaps = Path(f"/proc/{process.pid}/smaps").read_text().split(f"{address:x}-")[1]
            huge_kib = int(smaps.split("ShmemPmdMapped:")[1].split()[0])
        assert huge_kib >= SIZE_BYTES // 1024 // 2, "all, where free memory is not fragmented"

    def test_a_huge_directory_that_is_none(self, library, tmp_path):
        settings = Settings("thp", huge_directory=str(tmp_path / "nowhere"))
        answers, (line,) = Preloaded(library, settings).run("refused")
        assert answers == ["ok"]
        assert f"no file for it in MSHARE_PRELOAD_HUGE_DIRECTORY={tmp_path}/nowhere (No such file" in line
        assert line.endswith("left to the kernel as without the preload")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a tmpfs")
    def test_a_huge_tmpfs(self, library, tmp_path):
        settings = Settings("thp", huge_directory=str(tmp_path), verbose=True)
        mounted = f'mount -t tmpfs -o huge=always,size=128m huge {tmp_path} && exec "$@"'
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", mounted, "sh", *PROGRAM, "anonymous"],
            env={**os.environ, **settings.environment(library)},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        looked = json.loads(done.stdout.splitlines()[0])
        assert looked["fresh"]
        assert looked["huge_kib"] == SIZE_BYTES // 1024
        assert looked["file"].startswith(str(tmp_path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root reserves huge pages")
class TestHugetlb:
    def test_anonymous_memory(self, library):
        preloaded = Preloaded(library, Settings("hugetlb", verbose=True))
        with huge_pages.reserved(SIZE_BYTES // HUGE_BYTES):
            answers, lines = preloaded.run("anonymous")
        assert answers[0]["address"] % (1 << 30) == 0
        assert answers[0]["page_kib"] == HUGE_BYTES // 1024
        assert answers[0]["fresh"]
        assert answers[0]["written"] == 9
        assert answers[2] == {"left": False}, "all of it goes, and the pool is free for the second round"
        assert answers[3]["page_kib"] == HUGE_BYTES // 1024
        assert small_pages_kib() - answers[0]["child"]["vm_pte_kib"] >= SAVED_KIB
        assert "hugetlb pages, at 0x" in lines[0]

    def test_a_sysv_segment(self, library):
        preloaded = Preloaded(library, Settings("hugetlb", verbose=True))
        with huge_pages.reserved(SIZE_BYTES // HUGE_BYTES):
            answers, __ = preloaded.run("sysv")
        looked = answers[0]
        assert (looked["segment_size"], looked["attached"]) == (SIZE_BYTES - 100, 1)
        assert looked["start"] % (1 << 30) == 0
        assert looked["page_kib"] == HUGE_BYTES // 1024
        assert answers[1]["written"] == 9

    def test_errnos(self, library, thp):
        wanted = subprocess.run([*PROGRAM, "sysv_errnos"], check=True, capture_output=True, text=True).stdout
        with huge_pages.reserved(SIZE_BYTES // HUGE_BYTES):
            answers, lines = Preloaded(library, Settings("hugetlb")).run("sysv_errnos")
        assert answers == [json.loads(wanted)]
        assert lines == []
        assert thp.run("sysv_errnos")[0] == answers

    def test_a_pool_that_is_too_small(self, library):
        with huge_pages.none():
            answers, lines = Preloaded(library, Settings("hugetlb")).run("refused")
            segment, told = Preloaded(library, Settings("hugetlb")).run("sysv")
        assert answers == ["ok"]
        (line,) = lines
        assert "it needs 32 huge pages of 2 MiB and 0 are free" in line
        assert "raise vm.nr_hugepages by 32; left to the kernel" in line
        assert segment[0]["page_kib"] == 4
        assert sum("huge pages of 2 MiB" in line for line in told) == 1

    def test_required(self, library):
        with huge_pages.none():
            answers, (line,) = Preloaded(library, Settings("hugetlb", require=True)).run("refused")
        assert answers == ["ENOMEM"]
        assert line.endswith("; refused, because MSHARE_PRELOAD_REQUIRE=1 (--require) is set")

    def test_posix_memory_cannot_have_them(self, library):
        answers, lines = Preloaded(library, Settings("hugetlb")).run("posix")
        assert answers[2] == 9
        assert "it is a file on /dev/shm, which the host's pool of huge pages cannot hold" in lines[0]


def regions(answer: list[str]) -> list[str]:
    return [name for name in answer if name.startswith("preload.")]


class TestSimulated:
    def test_anonymous_memory(self, simulated, world):
        answers, lines = simulated.run("anonymous")
        for looked in (answers[0], answers[3]):
            assert looked["fresh"]
            assert (looked["child"]["seen"], looked["written"]) == (7, 9)
            assert looked["address"] % (1 << 39) == 0, "a window lies at a multiple of the alignment"
            assert looked["file"].startswith(f"{world.root}/preload.")
        assert [len(regions(answers[index])) for index in (1, 4)] == [1, 1]
        assert answers[0]["file"] != answers[3]["file"]
        assert len(lines) == 2
        assert "4 KiB pages, at 0x" in lines[0]
        assert ", in region preload." in lines[0]
        assert world.files() == []

    def test_a_childs_munmap_is_its_own(self, simulated, world):
        answers, __ = simulated.run("child_lets_go")
        assert len(regions(answers[0])) == 1
        assert answers[1] == 1

    def test_a_part_cannot_be_unmapped_as_on_a_kernel(self, simulated):
        assert simulated.run("partial")[0] == ["EINVAL", "ok"]

    def test_a_thread_cannot_own_a_region(self, simulated):
        answers, (line,) = simulated.run("from_a_thread")
        assert "/dev/zero" in answers[0]
        assert (
            "asks for it, and a region would die with that thread; it must be asked for by the main" in line
        )

    def test_list_and_a_python_client(self, simulated, world):
        with simulated.started("hold") as holder:
            pid = read(holder)
            (listed,) = world.json("list")["regions"]
            assert listed["name"] == f"preload.{pid}.1"
            assert (listed["health"], listed["mapped_bytes"]) == ("healthy", SIZE_BYTES)
            with (
                Region.open(listed["name"], backend=connect("simulated", str(world.root))) as region,
                region.attach() as attachment,
            ):
                view = attachment.view(0, MIB)
                assert bytes(view[:5]) == b"hello"
                view[4096:4100] = b"back"
                view.release()
            assert json.loads(release(holder)) == "back"
        assert world.files() == []

    def test_a_region_that_the_preload_made_is_validated(self, simulated, world):
        with simulated.started("hold") as holder:
            region = f"preload.{read(holder)}.1"
            alone = world.run("validate", region, "--probes", "1")
            assert alone.returncode == 1
            assert "no other program has it mapped, so there is nothing to validate" in alone.stderr
            with world.started("attach", region, "--hold", "--touch", "64MiB") as client:
                assert client.stdout is not None
                client.stdout.readline()
                done = world.run("--json", "validate", region, "--probes", "1", "--min-saving-percent", "0")
            release(holder)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["clients"]["region"], answer["clients"]["attached"]) == (region, 1)
        counted, without = (answer["figures"][name] for name in ("clients_attached", "without_sharing"))
        assert counted["how"] == "processes that have the region mapped, besides its owner"
        assert without["kind"] == "measured"
        assert without["value"] >= SIZE_BYTES // 512

    def test_a_killed_owners_name_is_cleaned_by_the_next(self, simulated, world):
        with simulated.started("stay") as process:
            read(process)
            process.kill()
            process.wait()
        (left,) = regions(os.listdir(world.root))
        assert left == f"preload.{process.pid}.1"
        answers, __ = simulated.run("anonymous")
        assert answers[0]["fresh"]
        assert left not in answers[1]
        assert world.files() == []

    def test_names_are_kept_as_long_as_a_child_has_the_memory(self, simulated, world):
        with simulated.started("orphan") as process:
            child = read(process)
            process.wait()
            try:
                answers, __ = simulated.run("anonymous")
                assert f"preload.{process.pid}.1" in answers[1]
            finally:
                os.kill(child, signal.SIGKILL)

    def test_sysv(self, simulated, world):
        answers, __ = simulated.run("sysv")
        looked, child, detached, again, removed, listed, detached_last, gone, left = answers
        assert (looked["segment_size"], looked["attached"]) == (SIZE_BYTES - 100, 1)
        assert looked["file"].startswith(f"{world.root}/preload.")
        assert ".sysv." in looked["file"]
        assert child == {"seen": 7, "attached": 2, "detached": "ok", "then": 1, "written": 9}
        assert detached == ["ok", 0, False]
        assert again == [7, 9]
        assert removed == ["ok", 1]
        assert len(regions(listed)) == 1
        assert (detached_last, gone) == ("ok", "EINVAL")
        assert regions(left) == []

    def test_sysv_errnos(self, simulated):
        wanted = subprocess.run([*PROGRAM, "sysv_errnos"], check=True, capture_output=True, text=True).stdout
        assert simulated.run("sysv_errnos") == ([json.loads(wanted)], [])

    def test_sysv_from_two_programs(self, simulated, world):
        with simulated.started("sysv_make") as maker:
            id = read(maker)
            with simulated.started("sysv_attach", str(id)) as other:
                found = read(other)
                assert found["seen"] == "hello"
                assert found["attached"] == 2
                assert found["file"].startswith(f"{world.root}/preload.{maker.pid}.sysv.")
                release(other)
            assert json.loads(release(maker)) == "B"
        assert world.files() == []

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives a file to another user")
    def test_another_users_region_is_not_trusted(self, simulated, world):
        with simulated.started("sysv_make") as maker:
            id = read(maker)
            os.chown(world.root / f"preload.{maker.pid}.sysv.{id}", NOBODY, NOBODY)
            with simulated.started("sysv_attach", str(id)) as other:
                assert read(other) == "EACCES"
                other.stdin.close()
                said = other.stderr.read()
                assert "belongs to another user; processes of one user share a segment" in said
                assert "refused, because it would not be the memory of the other processes" in said
            release(maker)

    def test_a_sysv_segment_that_was_used_without_is_left_alone(self, simulated):
        with subprocess.Popen(
            [*PROGRAM, "sysv_make"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as maker:
            id = read(maker)
            with simulated.started("sysv_attach", str(id)) as other:
                assert read(other)["seen"] == "hello"
                other.stdin.close()
                assert "it was attached before, without a region" in other.stderr.read()
            assert json.loads(release(maker)) == "B"

    def test_posix(self, simulated, world):
        answers, __ = simulated.run("posix")
        assert answers[0].startswith(f"{world.root}/preload.")
        assert answers[1] == [7, answers[0]]
        assert answers[2] == 9
        assert regions(answers[3]) == [os.path.basename(answers[0])]

    def test_posix_with_data(self, simulated):
        answers, (line,) = simulated.run("posix_used")
        assert answers == [["x", True]]
        assert "its file holds data already; left to the kernel" in line

    def test_huge_pages_are_refused(self, library, world):
        settings = Settings("hugetlb", "simulated", str(world.root))
        __, (line,) = Preloaded(library, settings).run("refused")
        assert "a simulated region created by the preload has no huge pages" in line

    def test_an_older_generation(self, library):
        with new_world("2025-01") as world:
            settings = Settings("4k", "simulated", str(world.root))
            answers, (line,) = Preloaded(library, settings).run("refused")
        assert answers == ["ok"]
        assert "holds no simulated msharefs of generation 2025-04 or 2025-08" in line

    def test_no_msharefs(self, library, tmp_path):
        settings = Settings("4k", "kernel", str(tmp_path), require=True)
        answers, (line,) = Preloaded(library, settings).run("refused")
        assert answers == ["ENOMEM"]
        assert f"{tmp_path}/mshare_info cannot be read (No such file or directory)" in line

    def test_no_address_space_is_left(self, simulated):
        simulated.environment["MSHARE_PRELOAD_VERBOSE"] = "0"
        done = subprocess.run(
            ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", *PROGRAM, "refused"],
            env=simulated.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == "ok"
        assert "no address space for the window of 512 GiB" in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a tmpfs")
    def test_a_full_tmpfs_is_no_sigbus(self, library, tmp_path):
        make = (
            "import sys; from mshare.backends.simulated.layout import Layout;"
            " Layout.create(sys.argv[1], '2025-08')"
        )
        script = (
            f'mount -t tmpfs -o size=8m mshare {tmp_path} && {sys.executable} -c "{make}" {tmp_path} &&'
            ' exec env "$@"'
        )
        settings = Settings("4k", "simulated", str(tmp_path)).environment(library)
        told = [f"{name}={value}" for name, value in settings.items()]
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *told, *PROGRAM, "refused"],
            env={**os.environ, "PYTHONPATH": str(Path(preload_library.__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == "ok"
        assert "cannot be created (No space left on device)" in done.stderr


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variables", "sentence"),
        [
            ({"PAGES": "1g"}, 'MSHARE_PRELOAD_PAGES is "1g"; it must be 4k, thp or hugetlb'),
            ({"PAGES": "thp", "THRESHOLD": "16MiB"}, 'THRESHOLD is "16MiB"; it must be a number of bytes'),
            ({"PAGES": "thp", "REQUIRE": "yes"}, 'MSHARE_PRELOAD_REQUIRE is "yes"; it must be 0 or 1'),
            ({"PAGES": "4k"}, "it must be kernel or simulated: pages of 4k and regions need msharefs"),
            ({"PAGES": "4k", "BACKEND": "kernel"}, "it must be the folder where msharefs is mounted"),
            ({"PAGES": "thp", "BACKEND": "kernel", "ROOT": "/"}, "it must be 4k or hugetlb in a region"),
        ],
    )
    def test_what_makes_no_sense(self, library, variables, sentence):
        preloaded = Preloaded(library, Settings("thp"))
        del preloaded.environment["MSHARE_PRELOAD_PAGES"]
        preloaded.environment.update({f"MSHARE_PRELOAD_{name}": value for name, value in variables.items()})
        answers, (line,) = preloaded.run("refused")
        assert answers == ["ok"]
        assert sentence in line

    def test_programs_without_large_memory_hear_nothing(self, library):
        preloaded = Preloaded(library, Settings("thp"))
        preloaded.environment["MSHARE_PRELOAD_PAGES"] = "nonsense"
        assert preloaded.run("files") == ([[]], [])


class TestRun:
    """The command line."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, world):
        world.environment["MSHARE_CACHE_DIR"] = str(tmp_path / "cache")

    def run(self, world: World, *words: str) -> subprocess.CompletedProcess[str]:
        return world.run("run", *words)

    def test_4k_where_there_is_a_root(self, world):
        done = self.run(world, "--verbose", "--", *PROGRAM, "anonymous")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["file"].startswith(f"{world.root}/preload.")

    def test_thp(self, world):
        done = self.run(world, "--pages", "thp", "--threshold", "4MiB", "--", *PROGRAM, "small")
        assert json.loads(done.stdout)["huge_kib"] == 8 * 1024

    def test_it_becomes_the_command(self, world):
        with world.started("run", "--pages", "thp", "--", "sh", "-c", "echo $$; exec sleep 60") as process:
            assert int(process.stdout.readline()) == process.pid
            process.terminate()
            assert process.wait() == -signal.SIGTERM
        assert self.run(world, "--pages", "thp", "--", "sh", "-c", "exit 7").returncode == 7

    def test_an_existing_region(self, world):
        with world.owned("sga", "--size", "64MiB"):
            done = self.run(world, "--region", "sga", "--", *PROGRAM, "several")
            first, second, third = json.loads(done.stdout)
            assert first == [1, f"{world.root}/sga"]
            assert second == [2, f"{world.root}/sga"]
            assert third[0] == 3
            assert "/dev/zero" in third[1]
            (line,) = done.stderr.splitlines()
            assert "0 B are left of the 64 MiB in region sga; make it larger" in line

    def test_an_existing_region_again_is_fresh(self, world):
        with world.owned("sga", "--size", "64MiB"):
            for __ in range(2):
                answers = self.run(world, "--region", "sga", "--", *PROGRAM, "anonymous").stdout.splitlines()
                for looked in (json.loads(answers[0]), json.loads(answers[3])):
                    assert looked["file"] == f"{world.root}/sga"
                    assert looked["fresh"]

    def test_an_existing_regions_pages_stay_its_owners(self, world):
        """Freed and touched anew they would be charged to the program's cgroup."""
        with world.owned("sga", "--size", "64MiB", "--prefault"):
            region = Path(world.root, "sga")
            before = region.stat().st_blocks
            assert before * 512 == 64 * MIB
            self.run(world, "--region", "sga", "--no-prefault", "--", *PROGRAM, "anonymous")
            assert region.stat().st_blocks == before

    def test_an_existing_region_takes_one_program(self, world):
        with (
            world.owned("sga", "--size", "64MiB"),
            world.started("run", "--region", "sga", "--", *PROGRAM, "stay") as first,
        ):
            read(first)
            done = self.run(world, "--region", "sga", "--", *PROGRAM, "refused")
            assert "region sga is in use by another process, or by a child of an earlier one" in done.stderr
            required = self.run(world, "--region", "sga", "--require", "--", *PROGRAM, "refused")
            assert json.loads(required.stdout) == "ENOMEM"

    def test_sysv_in_an_existing_region(self, world):
        with world.owned("sga", "--size", "64MiB"):
            done = self.run(world, "--region", "sga", "--", *PROGRAM, "sysv")
            looked, child = (json.loads(line) for line in done.stdout.splitlines()[:2])
            assert looked["file"] == f"{world.root}/sga"
            assert child == {"seen": 7, "attached": 2, "detached": "ok", "then": 1, "written": 9}

    def test_sysv_of_a_program_that_was_killed(self, world):
        """Its content has ended: the segment begins anew, and all who come have the same memory."""
        maker_words = ("run", "--region", "sga", "--", *PROGRAM, "sysv_make")
        with world.owned("sga", "--size", "64MiB"):
            with world.started(*maker_words, stdin=subprocess.PIPE) as maker:
                id = str(read(maker))
                attached = self.run(world, "--region", "sga", "--", *PROGRAM, "sysv_attach", id)
                assert attached.stderr == ""
                assert json.loads(attached.stdout)["seen"] == "hello"
                assert json.loads(attached.stdout)["file"] == f"{world.root}/sga"
                maker.kill()
                maker.wait()
            for __ in range(2):
                done = self.run(world, "--region", "sga", "--", *PROGRAM, "sysv_attach", id)
                assert json.loads(done.stdout)["seen"] == "\0" * 5
                assert "left to the kernel" in done.stderr
            subprocess.run(["ipcrm", "-m", id], check=True)

    def test_posix_is_not_for_an_existing_region(self, world):
        with world.owned("sga", "--size", "64MiB"):
            done = self.run(world, "--region", "sga", "--", *PROGRAM, "posix")
            assert "other processes find it by its name" in done.stderr

    def test_a_region_for_the_while(self, world):
        done = self.run(world, "--size", "64MiB", "--", *PROGRAM, "anonymous")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[0])["file"].startswith(f"{world.root}/run.")
        assert world.files() == []

    def test_a_region_for_the_while_in_huge_pages(self, world):
        """The pool is asked before the region is made, and the region is made of it."""
        with huge_pages.reserved(40):
            done = self.run(world, "--pages", "hugetlb", "--size", "64MiB", "--", *PROGRAM, "anonymous")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout.splitlines()[0])["fresh"]
            pool = "/sys/kernel/mm/hugepages/hugepages-2048kB"
            script = f"{sys.executable} -m mshare --json list; cat {pool}/resv_hugepages"
            done = self.run(world, "--pages", "hugetlb", "--size", "64MiB", "--", "sh", "-c", script)
            text, __, reserved = done.stdout.rpartition("}")
            (region,) = json.loads(text + "}")["regions"]
            assert [entry["kind"] for entry in region["mappings"]] == ["hugetlb"]
            assert int(reserved) == 32
            free = huge_pages.unused()
            size = f"{2 * (free + 8)}MiB"
            refused = self.run(world, "--pages", "hugetlb", "--size", size, "--", "true")
            assert refused.returncode == 4
            sentence = f"{free + 8} pages of 2 MiB, but this host has {free} free; raise vm.nr_hugepages by 8"
            assert sentence in " ".join(refused.stderr.split())
        assert world.files() == []

    def test_a_region_for_the_while_passes_signals_and_the_exit_code_on(self, world):
        assert self.run(world, "--size", "64MiB", "--", "sh", "-c", "exit 7").returncode == 7
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        with world.started("run", "--size", "64MiB", "--", "sh", "-c", script) as process:
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.wait() == 9
        assert self.run(world, "--size", "64MiB", "--", "sh", "-c", "kill -9 $$").returncode == 137
        assert world.files() == []

    @pytest.mark.parametrize(
        ("words", "code", "sentence"),
        [
            (
                ("--size", "1GiB", "--region", "a"),
                2,
                "--region a uses an existing region, and --size creates one",
            ),
            (("--pages", "thp", "--size", "1GiB"), 2, "pages thp do not use a region"),
            (("--region", "nowhere"), 1, "nowhere: No such file or directory"),
            (("--threshold", "much"), 2, "threshold 'much' is not a size"),
            (
                ("--pages", "hugetlb", "--size", "900GiB"),
                4,
                "huge pages needs 460,800 pages of 2 MiB, but",
            ),
        ],
    )
    def test_refusals(self, world, words, code, sentence):
        done = self.run(world, *words, "--", "true")
        assert done.returncode == code
        assert sentence in done.stderr

    def test_no_such_command(self, world):
        done = self.run(world, "--pages", "thp", "--", "nowhere")
        assert done.returncode == 1
        assert "command nowhere cannot be run" in done.stderr

    def test_building_ahead_of_time(self, world, tmp_path):
        said = world.ok("preload", "--output", str(tmp_path / "out"))
        assert said == f"{tmp_path}/out/{FILE_NAME}\n"
        assert world.json("preload")["sha256"] == preload_library.digest(preload_library.own_sources())
