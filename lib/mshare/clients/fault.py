# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a region cannot be touched although something is known to be mapped there.

A kernel lists nothing of what is mapped inside, and whoever may open a region may unmap. A touch of a hole
ends a process, so a child makes it, and notes in shared memory how far it is.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import signal
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..backends.mapping import Mapping
from ..region.pattern import touch
from ..region.region import Region
from ..services import signals
from . import client

FATAL = (signal.SIGSEGV, signal.SIGBUS)
_NOTE = struct.Struct("=QQ")
_PAGES_AT_ONCE = 512
Range = tuple[int, int]
"""Offset and size in bytes."""


@dataclass(frozen=True)
class Fault:
    """The first place whose touch ends a process."""

    offset: int
    number: signal.Signals

    def sentence(self, name: str) -> str:
        """For an error about region `name`."""
        if self.number == signal.SIGBUS:
            why = (
                "what is mapped there has no memory for it (SIGBUS): a file that was made shorter, or a full"
                " tmpfs; make room or the file as long as it was"
            )
        else:
            why = (
                "nothing is mapped there any more (SIGSEGV), though its owner wrote down that something is:"
                " another program unmapped it, or the owner just ended; map it again (`mshare map`), or"
                " create the region again"
            )
        return f"region {name} cannot be touched at offset {self.offset:#x}: {why}"


def find(target: client.Target, span_bytes: int, stride_bytes: int) -> Fault | None:
    """Touch in a child what a client would; None where nothing happens to it.

    OSError and MshareError of attaching are the child's own affair: the caller finds out when it attaches.
    """
    chunk_bytes = stride_bytes * _PAGES_AT_ONCE
    first = _first_fatal(target, _pieces(ranges(target.mappings, span_bytes), chunk_bytes), stride_bytes)
    if first is None:
        return None
    (offset, size_bytes), number = first
    exact = _first_fatal(target, _pieces([(offset, size_bytes)], stride_bytes), stride_bytes)
    return Fault(offset, number) if exact is None else Fault(exact[0][0], exact[1])


def ranges(mappings: Iterable[Mapping], span_bytes: int) -> Iterator[Range]:
    """The first `span_bytes` of what is mapped."""
    left_bytes = span_bytes
    for mapping in mappings:
        take_bytes = min(left_bytes, mapping.size_bytes)
        left_bytes -= take_bytes
        if take_bytes:
            yield mapping.offset, take_bytes


def _pieces(whole: Iterable[Range], piece_bytes: int) -> Iterator[Range]:
    for offset, size_bytes in whole:
        for start in range(offset, offset + size_bytes, piece_bytes):
            yield start, min(piece_bytes, offset + size_bytes - start)


def _first_fatal(
    target: client.Target, pieces: Iterator[Range], stride_bytes: int
) -> tuple[Range, signal.Signals] | None:
    with mmap.mmap(-1, mmap.PAGESIZE) as note:
        with signals.held(client.CAUGHT):
            pid = os.fork()
            if pid == 0:
                _touch_in_child(target, pieces, stride_bytes, note)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if -code not in FATAL:
            return None
        return _NOTE.unpack_from(note), signal.Signals(-code)


def _touch_in_child(
    target: client.Target, pieces: Iterator[Range], stride_bytes: int, note: mmap.mmap
) -> None:
    try:
        signals.leave(client.CAUGHT)
        # It may die, and nobody is to hear of it but the parent.
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with Region.open(target.name, read_only=True, backend=target.backend) as region:
            attachment = region.attach(read_only=True)
        memory = attachment.memory
        for offset, size_bytes in pieces:
            _NOTE.pack_into(note, 0, offset, size_bytes)
            touch(memory, offset, size_bytes, stride_bytes)
    finally:
        os._exit(0)
