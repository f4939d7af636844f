# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small programs of mapped.c, which map a file: which there are, and running one of them."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mshare.preload import library as preload_library
from rig.patience import HANG_SECONDS

THRESHOLD_BYTES = 1 << 20
PAGES = 1024
PAGE_BYTES = 4096
# Step -> how many mappings of it go into a region.
STEPS = {
    "whole": 1,
    "odd_size": 1,
    "part": 1,
    "two_parts": 2,
    "twice": 2,
    "closed": 1,
    "longer": 1,
    "truncated": 1,
    "deleted": 1,
    "replaced": 2,
    "written": 1,
    "read_only": 2,
    "write_only": 0,
    "unmap_parts": 1,
    "map_over": 1,
    "moved": 2,
    "advised": 14,
    "in_memory": 1,
    "locked": 2,
    "other_kinds": 1,
    "beyond": 1,
    "child": 2,
    "descriptors": 1,
    "watched": 1,
    "threads": 160,
    "direct": 4,
    "piped": 1,
    "sandboxed": 0,
    "sparse": 1,
    "rounds": 150 + 64,
    "killed": 1,
}


class Result(NamedTuple):
    code: int
    output: str


class Run(NamedTuple):
    result: Result
    lines: list[str]

    @property
    def taken(self) -> int:
        return sum("took over a file mapping" in line for line in self.lines)


@functools.cache
def program() -> str:
    """mapped.c, compiled, where other users can run it."""
    directory = _folder().name
    os.chmod(directory, 0o755)
    path, source = os.path.join(directory, "mapped"), Path(__file__).with_suffix(".c")
    flags = ("-std=gnu11", "-O1", "-pthread", "-w")
    subprocess.run([preload_library.compiler(), *flags, "-o", path, str(source)], check=True)
    return path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """It goes with this process."""
    return tempfile.TemporaryDirectory(prefix="mshare-mapped-")


def make_file(path: Path, mode: int = 0o644) -> Path:
    """A file, each page of which begins with its number."""
    path.write_bytes(b"".join(struct.pack("<Q", page).ljust(PAGE_BYTES, b"\0") for page in range(PAGES)))
    path.chmod(mode)
    return path


def run(step: str, directory: Path, environment: Mapping[str, str] | None = None) -> Run:
    """One of the programs, with a file of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as own:
        path = make_file(Path(own) / "file")
        done = subprocess.run(
            [program(), step, str(path)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
    return Run(Result(done.returncode, done.stdout), done.stderr.splitlines())
