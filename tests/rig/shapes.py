# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small programs of shapes.c: which there are, and running one of them."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mshare.preload import library as preload_library
from rig.patience import HANG_SECONDS

KIB, MIB = 1 << 10, 1 << 20
THRESHOLD_BYTES = 1 * MIB
SIZES = (4 * MIB, 4 * MIB + 12 * KIB, 3 * MIB - 100)

SHARED = ("anonymous", "at_an_offset", "populated", "made_writable", "zero_device", "memory_file")
PLACED = ("below_2_gib", "fixed", "wished")
OTHERS = ("sparse", "private", "validated", "at_a_wrong_offset")
SYSV = ("sysv", "sysv_at", "sysv_over", "sysv_removed")
POSIX = (
    "posix",
    "posix_unlinked",
    "posix_before",
    "posix_larger",
    "posix_grown",
    "posix_offset",
    "posix_head_first",
    "posix_head_later",
    "posix_written",
)

EVERYWHERE = (
    *("fill", "child", "children", "grandchild", "child_unmaps", "child_maps", "threads", "small_stack"),
    *("in_a_handler", "files_closed", "no_stderr", "descriptors", "unmap", "unmap_wide", "map_over"),
    *("input_and_output", "rounds", "exits", "exits_on_a_small_stack", "dies"),
)
PARTS = ("unmap_in_parts", "unmap_middle", "shrink", "grow", "move", "duplicate", "protect", "advise")
"""What a region refuses, as a kernel's does."""
BY_NAME = ("again", "read_only", "let_go_and_again", "child_attaches", "other_program", "removed_and_new")


class Shape(NamedTuple):
    kind: str
    step: str
    size_bytes: int = SIZES[0]

    def __str__(self) -> str:
        return f"{self.kind}-{self.step}-{self.size_bytes}"


SOME = tuple(
    Shape(kind, step)
    for kind, steps in {
        "anonymous": (*EVERYWHERE, "maps_while_forking", "under_signals", "under_a_timer"),
        "sysv": (*EVERYWHERE, *BY_NAME, "waiting_child_attaches"),
        "posix": (*EVERYWHERE, *BY_NAME),
    }.items()
    for step in steps
) + tuple(
    Shape(kind, "child", size_bytes)
    for kind in (*SHARED, *PLACED, *OTHERS, *SYSV, *POSIX)
    for size_bytes in SIZES[1:]
)
"""For a run of every test."""
SOME_PARTS = tuple(Shape(kind, step, SIZES[1]) for kind in ("anonymous", "sysv", "posix") for step in PARTS)

_KINDS = (*SHARED, *PLACED, *OTHERS, *SYSV, *POSIX)
ALL = tuple(
    dict.fromkeys(
        (
            *SOME,
            *(Shape(kind, step, size) for kind in _KINDS for step in EVERYWHERE for size in SIZES),
            *(
                Shape(kind, step, size)
                for kind in (*SYSV[:-1], *POSIX)
                for step in BY_NAME
                for size in SIZES
                if kind != "posix_unlinked"
            ),
            *(
                Shape(kind, step)
                for kind in _KINDS
                for step in ("maps_while_forking", "under_signals", "under_a_timer")
            ),
            *(Shape(kind, "many", MIB) for kind in ("anonymous", "sysv", "posix")),
        )
    )
)
ALL_PARTS = tuple(Shape(kind, step, size) for kind in _KINDS for step in PARTS for size in SIZES)


class Result(NamedTuple):
    code: int
    output: str


@functools.cache
def program() -> str:
    """shapes.c, compiled."""
    path, source = os.path.join(_folder().name, "shapes"), Path(__file__).with_suffix(".c")
    flags = ("-std=gnu11", "-O1", "-pthread", "-w")
    subprocess.run([preload_library.compiler(), *flags, "-o", path, str(source)], check=True)
    return path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """It goes with this process."""
    return tempfile.TemporaryDirectory(prefix="mshare-shapes-")


def run(
    shape: Shape, environment: Mapping[str, str] | None = None, within: Sequence[str] = ()
) -> tuple[Result, list[str]]:
    """What a program answers, with more variables and inside another command; and the lines on stderr."""
    done = subprocess.run(
        [*within, program(), shape.kind, str(shape.size_bytes), shape.step],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return Result(done.returncode, done.stdout), done.stderr.splitlines()
