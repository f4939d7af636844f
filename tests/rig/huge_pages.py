# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's pool of 2 MiB pages. There is one: whoever needs it as it is has it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from rig.debian import cache_dir, exclusive

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


OF_AN_INITDB = 80
"""So many of the pages that a test reserves may be taken for a moment where other tests make databases with
Debian's own programs: initdb takes what there is."""


def _pages(which: str) -> int:
    path = _POOL / f"{which}_hugepages"
    return int(path.read_text()) if path.exists() else 0


def unused() -> int:
    """How many pages are neither taken nor promised."""
    return _pages("free") - _pages("resv")


def _set(count: int) -> None:
    (_POOL / "nr_hugepages").write_text(str(count))


def _give_back(owed: Path) -> None:
    """Give back what a test that was killed had reserved. Whoever calls this has the pool's lock.

    It is known by how many pages there were before and then: who changed the pool since keeps what he made.
    """
    if owed.exists():
        before, then = map(int, owed.read_text().split())
        if _pages("nr") == then:
            _set(before)
        owed.unlink()


_has_turn = False
"""Whether this process has the pool's turn."""


@contextmanager
def _alone() -> Iterator[Path]:
    """The pool's turn; and where it is written down what has to be given back."""
    global _has_turn
    folder = cache_dir("pool")
    with exclusive(folder / "lock"):
        owed = folder / "owed"
        _give_back(owed)
        _has_turn = True
        try:
            yield owed
        finally:
            _has_turn = False


@contextmanager
def turn() -> Iterator[None]:
    """The pool's turn for what may take pages if there are any; for a test that has it already as well."""
    with nullcontext() if _has_turn else _alone():
        yield


@contextmanager
def reserved(count: int) -> Iterator[None]:
    """So many more pages in the pool, given back afterwards; skips where they cannot be had.

    A test that is killed gives nothing back: the next one does.
    """
    with _alone() as owed:
        before = _pages("nr")
        # Before they are there: what is killed now owes nothing, for the pool is as it was.
        owed.write_text(f"{before} {before + count}")
        try:
            try:
                _set(before + count)
            except OSError as error:
                pytest.skip(f"no huge pages can be reserved on this machine ({error.strerror})")
            if _pages("nr") < before + count:
                pytest.skip(f"this machine has no {count} huge pages to give")
            yield
        finally:
            with suppress(OSError):
                _set(before)
            owed.unlink()


@contextmanager
def alone() -> Iterator[int]:
    """The pool for a test that changes it, and gives back what it took: how many pages it has."""
    with _alone():
        before = _pages("nr")
        if not os.access(_POOL / "nr_hugepages", os.W_OK):
            pytest.skip("no huge pages can be reserved on this machine")
        try:
            yield before
        finally:
            # After a test that failed half-way.
            if _pages("nr") != before:
                (_POOL / "nr_hugepages").write_text(str(before))


@contextmanager
def restored() -> Iterator[None]:
    """The pool for a test that changes it, which has in the end what it had before."""
    with alone() as before:
        try:
            yield
        finally:
            (_POOL / "nr_hugepages").write_text(str(before))


_HOLD = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]) << 21, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(count: int) -> Iterator[int]:
    """A program that has so many pages of the pool reserved, which are there; its pid."""
    words = [sys.executable, "-c", _HOLD, str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate()


@contextmanager
def of_others(count: int) -> Iterator[int]:
    """More pages in the pool, which a program of somebody else's has reserved: how many the pool has then.

    For who has the pool's turn; whatever was done to it meanwhile, it has in the end what it had before.
    """
    before = _pages("nr")
    try:
        _set(before + count)
        with held(count):
            yield _pages("nr")
    finally:
        _set(before)


def count() -> int:
    """How many pages the pool has."""
    return _pages("nr")


def compact() -> None:
    """Have the kernel make large blocks of free memory: after many tests it may be in small ones only, of
    which no huge pages can be made."""
    with suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")


@contextmanager
def none() -> Iterator[None]:
    """A pool with nothing in it; skips where somebody has reserved pages."""
    with _alone():
        if _pages("nr"):
            pytest.skip("this machine has huge pages reserved")
        yield
