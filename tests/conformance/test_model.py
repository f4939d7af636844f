# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sequences of calls by several processes, against a plain model of what a region is.

The model is a dictionary: which pages are mapped, and the byte that each holds. 30 sequences; 3,000 with
MSHARE_PROVE=1 in the environment.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.actors import ANONYMOUS, NEW, READ_WRITE, Actor, stage
from conformance.cases import NOREPLACE, PAGE, Scene, killed, refused
from conformance.targets import TARGETS, Target
from mshare.kernel import abi, probe

SEQUENCES = 3000 if os.environ.get("MSHARE_PROVE") == "1" else 30
PROCESSES, PAGES = 3, 12


class Step(NamedTuple):
    """A call of one process on a range of pages."""

    what: str
    process: int
    page: int
    count: int
    value: int


STEPS = st.builds(
    Step,
    st.sampled_from(
        (
            "map",
            "map",
            "map over",
            "unmap",
            "write",
            "write",
            "read",
            "read",
            "attach",
            "detach",
            "fork",
            "size again",
            "protect",
            "remove",
            "dontneed",
        )
    ),
    st.integers(0, PROCESSES - 1),
    st.integers(0, PAGES - 1),
    st.integers(1, 4),
    st.integers(1, 255),
)


@dataclass
class Model:
    """A region as everybody sees it."""

    pages: dict[int, int] = field(default_factory=dict)
    read_only: set[int] = field(default_factory=set)

    def map(self, pages: range, replace: bool) -> int:
        if not replace and any(page in self.pages for page in pages):
            return errno.EEXIST
        self.pages.update(dict.fromkeys(pages, 0))
        self.read_only -= {*pages}
        return 0

    def unmap(self, pages: range) -> None:
        for page in pages:
            self.pages.pop(page, None)
        self.read_only -= {*pages}

    def protect(self, pages: range, writable: bool) -> int:
        if any(page not in self.pages for page in pages):
            return errno.ENOMEM
        self.read_only = self.read_only - {*pages} if writable else self.read_only | {*pages}
        return 0

    def remove(self, pages: range) -> int:
        if any(page not in self.pages for page in pages):
            return errno.ENOMEM
        if self.read_only & {*pages}:
            return errno.EACCES
        self.pages.update(dict.fromkeys(pages, 0))
        return 0

    def near(self, page: int) -> int | None:
        """The first mapped page from here on, or any."""
        return min(self.pages, key=lambda each: ((each - page) % PAGES, each), default=None)


class Play:
    """The processes of one sequence, and the model beside them."""

    def __init__(self, scene: Scene) -> None:
        self.model = Model()
        self.features = scene.features
        self.actors = [scene.actor() for __ in range(PROCESSES)]
        self.attached = [False] * PROCESSES
        owner, *others = self.actors
        owner.open(flags=NEW)
        owner.set_size()
        for other in others:
            other.open()

    def step(self, step: Step) -> None:
        actor = self.actors[step.process]
        pages = range(step.page, step.page + step.count)
        offset, size = step.page * PAGE, step.count * PAGE
        if step.what in ("map", "map over"):
            code = self.model.map(pages, step.what == "map over")
            flags = ANONYMOUS | (0 if step.what == "map over" else NOREPLACE)
            if code:
                with refused(code):
                    actor.map(offset, size, flags=flags)
            else:
                actor.map(offset, size, flags=flags)
        elif step.what == "unmap":
            if self.features.unmap:
                self.model.unmap(pages)
                actor.unmap(offset, size)
        elif step.what in ("protect", "remove", "dontneed"):
            self.change(step, actor, pages)
        elif step.what == "size again":
            with refused(errno.EINVAL):
                actor.set_size()
        elif step.what == "attach" and not self.attached[step.process]:
            actor.attach()
            self.attached[step.process] = True
        elif step.what == "detach" and self.attached[step.process]:
            actor.detach()
            self.attached[step.process] = False
        elif self.attached[step.process]:
            self.touch(step, actor)

    def change(self, step: Step, actor: Actor, pages: range) -> None:
        """What is mapped, in a generation that can; ENOMEM where not all of it is."""
        if not self.features.protect or not self.features.advice:
            return
        place = (step.page * PAGE, step.count * PAGE)
        if step.what == "protect":
            writable = step.value % 2 == 0
            code = self.model.protect(pages, writable)
            call, arguments = actor.protect, (*place, READ_WRITE if writable else abi.PROT_READ)
        elif step.what == "remove":
            code = self.model.remove(pages)
            call, arguments = actor.advise, (*place, abi.MADV_REMOVE)
        else:
            code = 0 if all(page in self.model.pages for page in pages) else errno.ENOMEM
            call, arguments = actor.advise, (*place, abi.MADV_DONTNEED)
        if code:
            with refused(code):
                call(*arguments)
        else:
            call(*arguments)

    def touch(self, step: Step, actor: Actor) -> None:
        """A page that is mapped: a touch of any other ends the process."""
        page = self.model.near(step.page)
        if page is None:
            return
        actor.follow()
        if step.what == "write" and page in self.model.read_only:
            return
        if step.what == "write":
            self.model.pages[page] = step.value
            actor.write(page * PAGE, bytes([step.value]))
        elif step.what == "read":
            assert actor.read(page * PAGE, 1) == bytes([self.model.pages[page]])
        elif step.what == "fork":
            child = actor.fork()
            child.follow()
            assert child.read(page * PAGE, 1) == bytes([self.model.pages[page]])
            child.kill()

    def everybody_agrees(self) -> None:
        for actor, attached in zip(self.actors, self.attached):
            if not attached:
                actor.attach()
            actor.follow()
            for page, value in self.model.pages.items():
                assert actor.read(page * PAGE, 1) == bytes([value])
            mappings = actor.mapped()
            if mappings is not None:
                assert mappings == sorted(self.model.pages)

    def the_owner_dies(self, scene: Scene) -> None:
        """Then nobody has anything of it, and nobody new can attach."""
        self.actors[0].kill()
        for actor in self.actors[1:]:
            killed(actor, "touch_for_long", min(self.model.pages, default=0) * PAGE)
        late = scene.actor()
        assert late.names() == ["r"]
        with refused(errno.ESTALE if self.features.nameless else errno.EINVAL):
            late.open()
            late.attach()
        with refused(errno.EEXIST):
            late.open(flags=NEW)
        late.unlink()
        assert late.names() == []


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, id=target.id)
        for target in TARGETS
        if target.present() and target.id in ("2025-08", "2026-05", "kernel")
    ],
)
@settings(
    max_examples=SEQUENCES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
def test_what_processes_see_is_what_the_model_says(target: Target, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory, target.mounted() as root, stage() as people:
        scene = Scene(
            target.backend, root, target.features(), probe.alignment_bytes(root), people, Path(directory)
        )
        play = Play(scene)
        for step in steps:
            play.step(step)
        play.everybody_agrees()
        play.the_owner_dies(scene)


def test_the_model_refuses_what_lies_over_something() -> None:
    model = Model()
    assert model.map(range(3), replace=False) == 0
    assert model.map(range(2, 4), replace=False) == errno.EEXIST
    model.pages[2] = 7
    assert model.map(range(2, 4), replace=True) == 0
    assert model.pages == {0: 0, 1: 0, 2: 0, 3: 0}
    model.unmap(range(1, 3))
    assert sorted(model.pages) == [0, 3]
    assert model.protect(range(2), writable=False) == model.remove(range(2)) == errno.ENOMEM
    assert model.protect(range(1), writable=False) == 0
    assert model.remove(range(1)) == errno.EACCES
    assert model.protect(range(1), writable=True) == model.remove(range(1)) == 0
    assert (model.near(1), Model().near(1)) == (3, None)
