# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small programs behave alike with the preload and without: exit code, output, content of memory, sharing.

With MSHARE_PROVE=1 each program of the table runs, without it a part of them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mshare.preload.settings import Settings
from rig import huge_pages, shapes
from rig.shapes import MIB, Shape
from rig.world import new_world

PROVE = os.environ.get("MSHARE_PROVE") == "1"
IN_A_REGION = shapes.ALL if PROVE else shapes.SOME
ON_A_STOCK_KERNEL = (*IN_A_REGION, *(shapes.ALL_PARTS if PROVE else shapes.SOME_PARTS))
POOL_PAGES = 512
REGION_SIZE = "400MiB"
Tries = Callable[[tuple[Shape, ...]], tuple[Shape, ...]]

without = functools.cache(lambda shape: shapes.run(shape)[0])


def differences(
    library: str, settings: Settings, table: tuple[Shape, ...], side_by_side: int = 2
) -> list[str]:
    environment = settings.environment(library)

    def difference(shape: Shape) -> str | None:
        wanted, (found, lines) = without(shape), shapes.run(shape, environment)
        strange = [line for line in lines if not line.startswith("mshare preload[")]
        return None if found == wanted and not strange else f"{shape}: {wanted} {found} {lines}"

    with ThreadPoolExecutor(side_by_side) as pool:
        return [text for text in pool.map(difference, table) if text is not None]


@pytest.fixture
def tries(record_property: Callable[[str, object], None]) -> Tries:
    """Counts a table for `make prove`, and gives it back."""

    def count(table: tuple[Shape, ...]) -> tuple[Shape, ...]:
        record_property("tries", len(table))
        return table

    return count


def of(pages: str, *where: str, **fields: object) -> Settings:
    return Settings(pages, *where, threshold_bytes=shapes.THRESHOLD_BYTES, **fields)  # type: ignore[arg-type]


def test_the_table_is_large_enough() -> None:
    assert len(IN_A_REGION) >= 80
    assert len(ON_A_STOCK_KERNEL) >= 80


def test_programs_do_what_they_are_for() -> None:
    """Else two of them could fail alike."""
    assert without(Shape("anonymous", "child")).output.count("sees") == 2
    assert "EINVAL" not in without(Shape("sysv", "again")).output
    assert without(Shape("anonymous", "exits")).code == 7


def test_thp(library: str, tries: Tries) -> None:
    assert differences(library, of("thp"), tries(ON_A_STOCK_KERNEL)) == []


def test_aligned_only(library: str, tries: Tries) -> None:
    assert differences(library, of("thp", prefault=False), tries(ON_A_STOCK_KERNEL)) == []


@pytest.mark.parametrize("prefault", [True, False])
def test_regions_of_their_own(library: str, tries: Tries, prefault: bool) -> None:
    with new_world() as world:
        settings = of("4k", "simulated", str(world.root), prefault=prefault)
        assert differences(library, settings, tries(IN_A_REGION)) == []


def test_with_mapped_files(library: str, tries: Tries) -> None:
    """Shared memory that is a file as well stays what it was without --files."""
    kinds = ("anonymous", "memory_file", "zero_device", *shapes.POSIX)
    table = tuple(shape for shape in IN_A_REGION if shape.kind in kinds)
    with new_world() as world, world.started("keep-files", "--backend", "simulated") as keeper:
        assert keeper.stdout is not None
        files = keeper.stdout.readline().strip()
        settings = of("4k", "simulated", str(world.root), files=files)
        assert differences(library, settings, tries(table)) == []


def test_a_region_that_exists(library: str, tries: Tries) -> None:
    """It takes one program at a time, and no POSIX memory."""
    kinds = ("anonymous", "populated", "made_writable", *shapes.SYSV)
    table = tuple(shape for shape in IN_A_REGION if shape.kind in kinds and shape.step != "many")
    with new_world() as world, world.owned("sga", "--size", "64MiB"):
        settings = of("4k", "simulated", str(world.root), region="sga")
        assert differences(library, settings, tries(table), side_by_side=1) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root reserves huge pages")
def test_hugetlb(library: str, tries: Tries) -> None:
    """Of huge pages only whole ones can be moved, protected, unmapped, or lie where the program wants."""
    unmapping = ("unmap", "unmap_wide", "map_over", "child_unmaps", "files_closed")
    odd = [
        shape
        for shape in IN_A_REGION
        if shape.kind in ("sysv_at", "sysv_over")
        or (shape.kind in shapes.SYSV and shape.step in unmapping and shape.size_bytes % (2 * MIB))
    ]
    table = tuple(shape for shape in IN_A_REGION if shape not in odd)
    with huge_pages.reserved(POOL_PAGES):
        assert differences(library, of("hugetlb"), tries(table), side_by_side=1) == []


def test_more_segments_than_are_counted(library: str) -> None:
    shape = Shape("anonymous", "many", 1 * MIB)
    with new_world() as world, world.owned("sga", "--size", REGION_SIZE):
        for region in (None, "sga"):
            settings = of("4k", "simulated", str(world.root), region=region)
            found, lines = shapes.run(shape, settings.environment(library))
            assert found == without(shape)
            assert "already, which is the maximum; left to the kernel" in lines[-1]
