# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small real processes with shared segments, for tests of the survey."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mshare.survey.survey import survey
from mshare.units import MIB

from .apart import die_with
from .patience import HANG_SECONDS

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBC.shmat.restype = ctypes.c_void_p
NORESERVE, FIXED_NOREPLACE = 0x4000, 0x100000
FAILED = ctypes.c_void_p(-1).value


def map_shared(fd: int, size_bytes: int, offset: int = 0, address: int | None = None, flags: int = 0) -> int:
    """mmap as the kernel has it, with an address; stays until the process ends."""
    flags |= mmap.MAP_SHARED | (FIXED_NOREPLACE if address else 0) | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
    start = LIBC.mmap(address, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
    if start == FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(start)


def touch(address: int, size_bytes: int, stride_bytes: int = 2 * MIB) -> None:
    for at in range(address, address + size_bytes, stride_bytes):
        ctypes.memset(at, 1, 1)


def sysv(size_bytes: int, key: int) -> int:
    """A SysV segment, attached, and removed as soon as nobody uses it."""
    number = LIBC.shmget(key, ctypes.c_size_t(size_bytes), 0o1600)
    if number < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    address: int = LIBC.shmat(number, None, 0)
    LIBC.shmctl(number, 0, None)
    return address


@contextlib.contextmanager
def running(work: Callable[[int], object], count: int = 1) -> Iterator[list[int]]:
    """Pids of children that have done `work(number)` and stay; killed at the end."""
    pids: list[int] = []
    failed: list[bytes] = []
    try:
        for number in range(count):
            read_fd, write_fd = os.pipe()
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                try:
                    die_with(parent)
                    work(number)
                    os.write(write_fd, b"1")
                    while True:
                        signal.pause()
                except BaseException as error:  # noqa: BLE001
                    os.write(write_fd, f"0{error!r}".encode())
                finally:
                    os._exit(1)
            pids.append(pid)
            os.close(write_fd)
            with open(read_fd, "rb", buffering=0) as pipe:
                byte = pipe.read(200)
            if byte != b"1":
                failed.append(byte)
        assert not failed, failed
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def survey_fields(**options: Any) -> dict[str, Any]:
    """A survey as --json has it."""
    return survey(**options).to_dict()


def instance_of(survey: dict[str, Any], pid: int) -> Any:
    """The instance that a process belongs to."""
    return next((instance for instance in survey["instances"] if pid in instance["pids"]), None)


def surveyed(pid: int, **options: Any) -> tuple[dict[str, Any], Any]:
    """A survey of everything, however small, and the instance of a process."""
    fields = survey_fields(threshold_bytes=1, **options)
    return fields, instance_of(fields, pid)


def python(code: str, *before: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Another Python that has this library, after a command like unshare."""
    command = [*before, sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False, **options
    )
