# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preload's C as compilers, analysers and sanitizers see it."""

from __future__ import annotations

import functools
import graphlib
import shutil
import subprocess
from pathlib import Path

import pytest

from mshare.preload import library as preload_library
from mshare.preload.settings import FILE_NAME, Settings
from rig import mapped, shapes
from rig.world import new_world

WARNINGS = (
    *("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wcast-align=strict", "-Wformat=2", "-Wundef"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-Wpointer-arith", "-Wwrite-strings"),
)
CPPCHECK = (
    *("cppcheck", "--std=c11", "--enable=warning,performance,portability,style", "--quiet"),
    *("--suppress=clarifyCalculation", "--error-exitcode=1"),
)
SANITIZERS = {
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=all"),
    "address": ("-fsanitize=address",),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources")
    for name, text in preload_library.own_sources().items():
        (directory / name).write_text(text)
    return directory


def compile_all(sources: Path, *flags: str) -> list[Path]:
    """Each source compiled by itself."""
    names = [path.name for path in sources.glob("*.c")]
    subprocess.run(
        [preload_library.compiler(), *preload_library.COMPILE, *flags, *names], cwd=sources, check=True
    )
    return sorted(sources.glob("*.o"))


@pytest.fixture(scope="module")
def objects(sources: Path) -> list[Path]:
    return compile_all(sources)


def symbols(path: Path, which: str) -> set[str]:
    command = ["nm", "-P", "--extern-only", which, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_no_file_needs_one_that_needs_it(objects: list[Path]) -> None:
    home = {name: path.stem for path in objects for name in symbols(path, "--defined-only")}
    needs = {
        path.stem: {home[name] for name in symbols(path, "--undefined-only") if name in home}
        for path in objects
    }
    assert "take" in needs["mmap"], "the table was read"
    graphlib.TopologicalSorter(needs).prepare()


def needs_gcc() -> None:
    text = subprocess.run(
        [preload_library.compiler(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    if "Free Software Foundation" not in text:
        pytest.skip("the host's compiler is not gcc")


def test_gcc_finds_nothing(sources: Path) -> None:
    needs_gcc()
    compile_all(sources, *WARNINGS, "-fanalyzer")


def test_cppcheck_finds_nothing(sources: Path) -> None:
    if shutil.which("cppcheck") is None:
        pytest.skip("cppcheck is not installed")
    done = subprocess.run([*CPPCHECK, "."], cwd=sources, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request: pytest.FixtureRequest, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What LD_PRELOAD is for a library that says what it does wrong."""
    needs_gcc()
    path = tmp_path_factory.mktemp(request.param) / FILE_NAME
    flags = (*SANITIZERS[request.param], "-g", "-fno-omit-frame-pointer")
    units = preload_library.PRELOAD.units_of(preload_library.own_sources())
    objects = [path for path in compile_all(sources, *flags) if f"{path.stem}.c" in units]
    linked = [preload_library.compiler(), *flags, "-shared", "-pthread", "-o", path, *objects]
    subprocess.run(linked, cwd=sources, check=True)
    # Of its own runtime the address sanitizer says that it must be the first.
    runtime = [preload_library.compiler(), "-print-file-name=libasan.so"]
    first = subprocess.run(runtime, check=True, capture_output=True, text=True).stdout.strip()
    return f"{first} {path}" if request.param == "address" else str(path)


without = functools.cache(lambda shape: shapes.run(shape)[0])


def complaints(settings: Settings, library: str, table: tuple[shapes.Shape, ...]) -> list[str]:
    environment = {**settings.environment(library), "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0"}
    found = []
    for shape in table:
        result, lines = shapes.run(shape, environment)
        wrong = [line for line in lines if "ERROR" in line or "runtime error" in line]
        if wrong or result != without(shape):
            found.append(f"{shape}: {result} {lines}")
    return found


class TestSanitizers:
    """A program whose stack is small, or whose descriptors are gone, is none for a sanitizer itself."""

    @pytest.fixture(autouse=True)
    def table(self, sanitized: str) -> tuple[shapes.Shape, ...]:
        beyond = (
            *("small_stack", "exits_on_a_small_stack", "in_a_handler", "files_closed"),
            *("maps_while_forking", "under_signals", "under_a_timer"),
        )
        skipped = beyond if "asan" in sanitized else ()
        return tuple(shape for shape in shapes.SOME if shape.step not in skipped)

    def test_stock(self, sanitized: str, table: tuple[shapes.Shape, ...]) -> None:
        settings = Settings("thp", threshold_bytes=shapes.THRESHOLD_BYTES, verbose=True)
        assert complaints(settings, sanitized, (*table, *shapes.SOME_PARTS)) == []

    def test_regions(self, sanitized: str, table: tuple[shapes.Shape, ...]) -> None:
        with new_world() as world:
            where = ("simulated", str(world.root))
            settings = Settings("4k", *where, threshold_bytes=shapes.THRESHOLD_BYTES, verbose=True)
            assert complaints(settings, sanitized, table) == []

    def test_a_region_that_exists(self, sanitized: str, table: tuple[shapes.Shape, ...]) -> None:
        with new_world() as world, world.owned("sga", "--size", "64MiB"):
            where = ("simulated", str(world.root), "sga")
            settings = Settings("4k", *where, threshold_bytes=shapes.THRESHOLD_BYTES)
            some = tuple(shape for shape in table if shape.kind == "sysv")
            assert complaints(settings, sanitized, some) == []

    def test_mapped_files(self, sanitized: str) -> None:
        # It ends in a signal on purpose, or takes a stack of its own.
        steps = [step for step in mapped.STEPS if step not in ("killed", "threads", "locked")]
        with new_world() as world, world.started("keep-files", "--backend", "simulated") as process:
            assert process.stdout is not None
            where = ("simulated", str(world.root))
            settings = Settings(
                "4k",
                *where,
                files=process.stdout.readline().strip(),
                threshold_bytes=mapped.THRESHOLD_BYTES,
                verbose=True,
            )
            environment = {**settings.environment(sanitized), "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0"}
            found = []
            for step in steps:
                run = mapped.run(step, world.directory, environment)
                wrong = [line for line in run.lines if "ERROR" in line or "runtime error" in line]
                if wrong or run.result != mapped.run(step, world.directory).result:
                    found.append(f"{step}: {run}")
            assert found == []
