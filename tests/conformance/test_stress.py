# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many processes, many forks, many changes at once, on every backend that is here."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.actors import ADDRESS, ANONYMOUS, NEW, Actor, Worker, crowd
from conformance.cases import GIB, MIB, NOBODY, Scene, killed, refused
from conformance.targets import TARGETS, Target
from mshare.backends.simulated.layout import Layout

NEWEST = [
    pytest.param(target, id=target.id)
    for target in TARGETS
    if target.present() and target.id in ("2025-08", "kernel")
]

pytestmark = pytest.mark.parametrize("target", NEWEST)


@contextmanager
def mapping_and_unmapping(actor: Actor) -> Iterator[None]:
    """An actor that changes the region at 1 GiB all the time."""
    actor.start("change_until_told")
    try:
        yield
    finally:
        actor.kill()


def test_200_processes_attach_while_mappings_change(scene: Scene, target: Target) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    changer = scene.actor()
    changer.open()

    def attach_and_look(number: int) -> None:
        worker = Worker(scene.backend, scene.root)
        worker.open()
        worker.attach()
        for __ in range(20):
            assert worker.read(0) == b"hello"
        worker.write(MIB + number, b"x")

    with mapping_and_unmapping(changer):
        assert crowd(200, attach_and_look) == [0] * 200
    assert owner.read(MIB, 200) == b"x" * 200


def test_hundreds_of_forks_while_the_watch_thread_works(scene: Scene, target: Target) -> None:
    scene.owner().write(0, b"hello")
    changer, parent = scene.actor(), scene.client()
    changer.open()
    with mapping_and_unmapping(changer):
        assert parent.fork_and_read(300) == [0] * 300
    assert parent.read() == b"hello"


def test_forks_from_a_process_that_changes_the_region_itself(scene: Scene, target: Target) -> None:
    owner = scene.owner()
    owner.write(0, b"hello")
    assert owner.fork_and_read(200, while_changing=True) == [0] * 200
    # A lock left behind in a child would stop this for ever.
    owner.map(offset=2 * GIB, flags=ANONYMOUS)


def test_100_attached_processes_die_with_the_owner_none_of_sigbus(scene: Scene, target: Target) -> None:
    owner = scene.owner(size=64 * MIB)
    clients = [scene.client() for __ in range(20)]
    family = clients + [client.fork() for client in clients for __ in range(4)]
    for member in family:
        member.start("touch_for_long", 32 * MIB)
    owner.kill()
    for member in reversed(family):
        killed(member, "result")


def test_memory_of_a_dead_region_is_freed(scene: Scene, target: Target) -> None:
    owner = scene.owner(size=32 * MIB)
    for offset in range(0, 32 * MIB, MIB):
        owner.write(offset, bytes([1]) * MIB)
    client = scene.client()
    path = Path(scene.root, "r")
    if scene.backend == "simulated":
        assert path.stat().st_blocks * 512 >= 32 * MIB
    owner.kill()
    killed(client, "touch_for_long")
    with refused(errno.EINVAL):
        latecomer = scene.actor()
        latecomer.open()
        latecomer.attach()
    if scene.backend == "simulated":
        assert path.stat().st_blocks == 0


def test_an_ordinary_user_has_a_simulated_root_of_their_own(target: Target) -> None:
    if os.geteuid() != 0 or target.backend != "simulated":
        pytest.skip("becoming another user needs root; the kernel's msharefs is mounted by root")
    root = f"/dev/shm/msharefs-test-user-{os.getpid()}"

    def use(_number: int) -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.mkdir(root, 0o700)
        Layout.create(root, target.id)
        worker = Worker("simulated", root)
        worker.open(flags=NEW)
        worker.set_size()
        worker.map()
        assert worker.attach(address=ADDRESS) == ADDRESS
        child = os.fork()
        if child == 0:
            other = Worker("simulated", root)
            other.open()
            other.attach()
            other.write(0, b"hello")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert worker.read() == b"hello"
        worker.unlink()
        Layout.read(root).remove()
        os.rmdir(root)

    try:
        assert crowd(1, use) == [0]
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_two_regions_in_one_process(scene: Scene, target: Target) -> None:
    assert scene.actor().own_two_regions() == [b"one", b"two"]
