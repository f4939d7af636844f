# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, owners and clients on the kernel backend, where the FUSE double answers as msharefs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from rig.test_fuse_msharefs import MIB, UNMAP, ioctl

from rig.kernel_world import KernelWorld, new_kernel_world
from rig.mount import NEEDS, can_mount_fuse

pytestmark = pytest.mark.skipif(not can_mount_fuse(), reason=NEEDS)
GIB = 1 << 30


@pytest.fixture
def world() -> Iterator[KernelWorld]:
    with new_kernel_world() as made:
        yield made


def unmapped_by_another_program(world: KernelWorld, offset: int, size: int) -> None:
    """Whoever may open a region may unmap; nobody writes that down."""
    fd = os.open(world.mount.path("sga"), os.O_RDONLY)
    assert ioctl(fd, UNMAP, struct.pack("<QQ", offset, size)) == "ok"
    os.close(fd)


def test_what_is_mapped_and_unmapped_later_is_known(world: KernelWorld) -> None:
    """The kernel lists nothing of it."""
    world.ok("create", "sga", "--size", "64MiB")
    assert world.json("map", "sga", "--offset", "1GiB", "--size", "4MiB")["unrecorded"] is None
    assert world.json("unmap", "sga", "--offset", "0", "--size", "2MiB")["unrecorded"] is None
    region = world.region()
    assert (region["health"], region["mapped_bytes"]) == ("healthy", 66 * MIB)
    places = [(entry["offset"], entry["size"]) for entry in region["mappings"]]
    assert places == [(2 * MIB, 62 * MIB), (GIB, 4 * MIB)]
    started = world.json("clients", "start", "sga", "--count", "2")["clients"]
    assert (started["attached"], started["span_bytes"]) == (2, 66 * MIB)
    assert world.json("attach", "sga", "--touch", "66MiB")["span_bytes"] == 66 * MIB
    assert "nothing to do" in world.ok("create", "sga", "--size", "64MiB")


def test_a_touch_of_what_another_program_unmapped_is_said(world: KernelWorld) -> None:
    world.ok("create", "sga", "--size", "64MiB")
    unmapped_by_another_program(world, 6 * MIB, 2 * MIB)
    attach = world.run("attach", "sga", "--touch", "8MiB")
    start = world.run("clients", "start", "sga", "--count", "2")
    for done in (attach, start):
        assert done.returncode == 1
        assert "region sga cannot be touched at offset 0x600000: " in done.stderr
    assert world.ok("attach", "sga", "--touch", "6MiB")
    assert world.region()["clients"] is None
