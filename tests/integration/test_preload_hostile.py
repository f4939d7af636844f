# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload in a root where others may write, and what it leaves in the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mshare.backends.root import make_directory
from mshare.preload.settings import FILE_NAME, Settings
from rig import shapes, sharing
from rig.shapes import MIB, Shape
from rig.world import World, new_world

SIZE_BYTES = 64 * MIB
FILL = Shape("anonymous", "fill", SIZE_BYTES)
NAMES = 400
"""Of regions that the next processes may make: their pids are easily guessed."""
GIB = 1 << 30


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


@pytest.fixture
def own(world: World) -> Settings:
    return Settings("4k", "simulated", str(world.root), verbose=True)


def alike(settings: Settings, library: str, shape: Shape = FILL, within: tuple[str, ...] = ()) -> list[str]:
    found, lines = shapes.run(shape, settings.environment(library), within)
    assert found == shapes.run(shape)[0], lines
    return lines


def next_pids() -> range:
    """With a fork between, none of them is this process's own."""
    child = subprocess.Popen(["true"])
    child.wait()
    return range(child.pid + 1, child.pid + NAMES)


class TestNamesMadeBeforehand:
    def test_a_sidecar_that_is_a_link(self, library, world, own, tmp_path):
        target = tmp_path / "target"
        target.write_text("precious")
        for pid in next_pids():
            os.symlink(target, world.root / ".simulated" / f"preload.{pid}.1.json")
        (line,) = alike(own, library)
        assert "took over" in line
        assert target.read_text() == "precious"

    def test_a_region_that_is_a_link(self, library, world, own, tmp_path):
        target = tmp_path / "target"
        target.write_text("precious")
        for pid in next_pids():
            os.symlink(target, world.root / f"preload.{pid}.1")
        (line,) = alike(own, library)
        assert re.search(r"took over .* in region preload\.\d+\.2$", line), "the next number is free"
        assert target.read_text() == "precious"

    def test_a_fifo(self, library, world, own):
        os.mkfifo(world.root / "preload.1.1")
        (line,) = alike(own, library)
        assert "took over" in line

    def test_a_layout_that_is_a_fifo(self, library, world, own):
        layout = world.root / ".simulated" / "layout.json"
        layout.unlink()
        os.mkfifo(layout)
        (line,) = alike(own, library)
        assert "holds no simulated msharefs" in line

    def test_an_existing_region_that_is_a_link(self, library, world, tmp_path):
        target = tmp_path / "target"
        target.write_text("precious")
        os.symlink(target, world.root / "sga")
        (line,) = alike(Settings("4k", "simulated", str(world.root), region="sga"), library)
        assert "sga cannot be opened (Too many levels of symbolic links); left to the kernel" in line
        assert target.read_text() == "precious"

    def test_an_existing_region_in_a_directory(self, library, world):
        make_directory(str(world.root), "sales", 0o3770, -1)
        settings = Settings("4k", "simulated", str(world.root), region="sales/sga", verbose=True)
        with world.owned("sales/sga", "--size", "128MiB"):
            (line,) = alike(settings, library)
            assert "took over" in line
            assert "in region sales/sga" in line
            # Whoever may write to the directory above can put a link in its place.
            (world.root / "sales").rename(world.root / "moved")
            os.symlink("moved", world.root / "sales")
            (line,) = alike(settings, library)
            assert "sales/sga cannot be opened (Not a directory); left to the kernel" in line
            (world.root / "sales").unlink()
            (world.root / "moved").rename(world.root / "sales")
        for name in ("sales/../sga", "./sga", "sales//sga"):
            (line,) = alike(replace(settings, region=name), library)
            assert f"{name} cannot be opened (Invalid argument); left to the kernel" in line

    def test_an_existing_region_with_a_second_name(self, library, world):
        """What would be cleared has the other name as well."""
        with world.owned("sga", "--size", "64MiB"):
            os.link(world.root / "sga", world.root / "other")
            (line,) = alike(Settings("4k", "simulated", str(world.root), region="sga"), library)
            os.unlink(world.root / "other")
        assert "sga is a file with 2 names (hard links); remove the others; left to the kernel" in line


def test_a_lock_that_somebody_keeps(library, world, own):
    for path in (world.root, world.root / ".simulated" / "layout.json"):
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        (line,) = alike(own, library)
        assert f"{path} is locked by process {os.getpid()} for more than 3 s; end that; left to" in line
        os.close(fd)


def test_a_lock_does_not_give_other_memory(library, world, own):
    """Whose segment is in a region must not get the kernel's instead."""
    environment = {**os.environ, **own.environment(library)}
    program = [sys.executable, str(Path(sharing.__file__))]
    with subprocess.Popen(
        [*program, "sysv_make"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        id = maker.stdout.readline().strip()
        fd = os.open(world.root, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        done = subprocess.run(
            [*program, "sysv_attach", id], env=environment, capture_output=True, text=True, check=False
        )
        os.close(fd)
        maker.communicate("\n")
    assert done.stdout == '"ENOMEM"\n'
    assert "refused, because it would not be the memory of the other processes" in done.stderr


@contextlib.contextmanager
def staying(own: Settings, library: str) -> Iterator[int]:
    """The pid of a program that has its segment and waits; it ends with the block."""
    with subprocess.Popen(
        [sys.executable, str(Path(sharing.__file__)), "stay"],
        env={**os.environ, **own.environment(library)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


class TestWhatStays:
    def test_no_descriptor(self, library, world, own):
        lines = alike(own, library, Shape("anonymous", "descriptors", SIZE_BYTES))
        assert sum("took over" in line for line in lines) == 2

    def test_a_core_file_has_only_the_memory(self, library, own):
        """gcore writes what smaps does not exclude: the window is 512 GiB."""
        with staying(own, library) as pid:
            smaps = Path(f"/proc/{pid}/smaps").read_text()
        dumped = 0
        for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps)[1:]:
            start, end = (int(text, 16) for text in mapping.split()[0].split("-"))
            if "dd" not in mapping.split("VmFlags:")[1].split():
                dumped += end - start
        assert SIZE_BYTES < dumped < GIB

    def test_everybody_finds_the_same_region(self, library, own):
        shape = Shape("sysv", "child_attaches", SIZE_BYTES)
        assert len({line.split("in region ")[1] for line in alike(own, library, shape)}) == 1


class TestWhatIsSaid:
    @pytest.mark.parametrize(
        ("kind", "settings", "sentence"),
        [
            ("anonymous", Settings("thp", verbose=True), "took over anonymous shared memory"),
            ("anonymous", Settings("thp", verbose=True, prefault=False), "placed anonymous shared memory"),
            ("posix_before", Settings("thp", verbose=True), "placed POSIX shared memory"),
            ("posix_larger", Settings("thp", verbose=True), "took over POSIX shared memory"),
        ],
    )
    def test_took_over_only_what_was(self, library, kind, settings, sentence):
        __, (line,) = shapes.run(Shape(kind, "fill", SIZE_BYTES), settings.environment(library))
        assert sentence in line

    def test_a_segment_of_small_pages_is_not_in_huge_ones(self, library, world):
        """It was made without the preload."""
        with subprocess.Popen(
            [sys.executable, str(Path(sharing.__file__)), "sysv_make"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as maker:
            assert maker.stdout is not None
            id = maker.stdout.readline().strip()
            done = subprocess.run(
                [sys.executable, str(Path(sharing.__file__)), "sysv_attach", id],
                env={**os.environ, **Settings("hugetlb", verbose=True).environment(library)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
            )
            maker.communicate("\n")
        assert "took over" not in done.stderr
        assert "its pages are small, because it was created without SHM_HUGETLB; kept as it is" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
def test_required_with_a_cache_from_which_nothing_runs(world, tmp_path):
    """The loader says that it ignores the library, and starts the program."""
    cache = tmp_path / "cache"
    cache.mkdir()
    mounted = f'mount -t tmpfs -o noexec noexec {cache} && exec "$@"'
    words = [sys.executable, "-m", "mshare", "run", "--pages", "thp"]
    for more, code in (["--require"], 4), ([], 0):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", mounted, "sh", *words, *more, "--", "echo", "ran"],
            env={**world.environment, "MSHARE_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert done.stdout == ("" if code else "ran\n")
        assert FILE_NAME.partition(".")[0] in done.stderr
        if code:
            assert "cannot be loaded" in done.stderr
            assert "MSHARE_CACHE_DIR" in done.stderr


@pytest.mark.skipif(shutil.which("gcore") is None, reason="no gcore")
def test_gcore_writes_the_memory_and_not_the_window(library, own, tmp_path):
    with staying(own, library) as pid:
        subprocess.run(["gcore", "-o", str(tmp_path / "core"), str(pid)], check=True, capture_output=True)
    assert (tmp_path / f"core.{pid}").stat().st_size < GIB
