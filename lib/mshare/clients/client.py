# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One client: a process that attaches a region by itself, touches and verifies it, and stays.

It runs in a process forked by the launcher, so it opens, looks up and maps everything itself: an
inherited mapping would prove nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from .. import errors, record
from ..backends.base import Backend
from ..backends.mapping import Mapping
from ..errors import MshareError
from ..host import procfs
from ..kernel import syscalls
from ..region.filling import Place
from ..region.pattern import Pattern, touch
from ..region.region import Attachment, Region
from ..region.status import running_owner
from ..services import signals

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""The signals that the launcher has handlers for, and a client has not."""
_ERROR_CHARACTERS = 600


@dataclass(frozen=True)
class Touched:
    """What attaching and touching a region took in one process, measured."""

    attach_us: int
    """To open, look up and map the region."""
    touch_us: int
    vm_pte_before_bytes: int
    """VmPTE of the process."""
    vm_pte_after_bytes: int
    verified_pages: int
    wrong_pages: int
    """Pages without the owner's pattern, of those verified."""


@dataclass(frozen=True)
class Report:
    """What a client tells its launcher, as a line of JSON that is short enough (PIPE_BUF, 4096 bytes) to be
    written to a shared pipe as a whole: what it did, or why it could not."""

    pid: int
    number: int
    touched: Touched | None = None
    error: str | None = None


@dataclass(frozen=True)
class Target:
    """What a client is to attach."""

    name: str
    backend: Backend
    path: str
    mappings: tuple[Mapping, ...]
    mappings_known: bool
    """False for a kernel's region of which no owner of ours wrote anything down: `mappings` is empty then."""
    pattern: Pattern | None
    window_bytes: int
    mapped_bytes: int
    address: int | None
    memory_max_bytes: int | None
    """The limit of the slice that pays for the region."""

    @classmethod
    def find(cls, name: str, backend: Backend) -> Target:
        """The region as it is now; what is mapped in a kernel's region is known from its owner only."""
        with Region.open(name, read_only=True, backend=backend) as region:
            facts = region.stat()
        status = running_owner(name, backend.root)
        mappings = facts.mappings
        if mappings is None and status is not None and status.mappings is not None:
            mappings = [entry.mapping() for entry in status.mappings]
        limit = status.spec.get("memory_max") if status is not None else None
        return cls(
            name=name,
            backend=backend,
            path=facts.path,
            mappings=tuple(mappings or ()),
            mappings_known=mappings is not None,
            pattern=status.pattern if status is not None else None,
            window_bytes=facts.window_bytes,
            mapped_bytes=sum(mapping.size_bytes for mapping in mappings or ()),
            address=facts.address,
            memory_max_bytes=limit if isinstance(limit, int) else None,
        )

    def place(self) -> Place:
        """Where it is touched."""
        return Place(self.name, self.backend, self.window_bytes, self.address)

    def environment(self, number: int) -> dict[str, str]:
        """What a client's own program is told."""
        return {
            "MSHARE_REGION": self.name,
            "MSHARE_PATH": self.path,
            "MSHARE_BACKEND": self.backend.name,
            "MSHARE_GENERATION": self.backend.generation.id,
            "MSHARE_ADDRESS": "" if self.address is None else hex(self.address),
            "MSHARE_WINDOW_BYTES": str(self.window_bytes),
            "MSHARE_MAPPED_BYTES": str(self.mapped_bytes) if self.mappings_known else "",
            "MSHARE_CLIENT_NUMBER": str(number),
        }


def attach_and_touch(
    target: Target, span_bytes: int, stride_bytes: int, address: int | None = None
) -> tuple[Attachment, Touched]:
    """Attach, touch `span_bytes` and verify what the owner wrote."""
    before_bytes = _own_vm_pte_bytes()
    started = time.perf_counter_ns()
    with Region.open(target.name, backend=target.backend) as region:
        attachment = region.attach(address)
    attached = time.perf_counter_ns()
    memory, pattern = attachment.memory, target.pattern
    wrong_pages = verified_pages = 0
    left_bytes = span_bytes
    for mapping in target.mappings:
        take_bytes = min(left_bytes, mapping.size_bytes)
        left_bytes -= take_bytes
        if pattern is not None and pattern.offset == mapping.offset:
            wrong_pages = pattern.verify(memory, take_bytes)
            verified_pages = pattern.pages(take_bytes)
        touch(memory, mapping.offset, take_bytes, stride_bytes)
    touched = time.perf_counter_ns()
    return attachment, Touched(
        attach_us=(attached - started) // 1000,
        touch_us=(touched - attached) // 1000,
        vm_pte_before_bytes=before_bytes,
        vm_pte_after_bytes=_own_vm_pte_bytes(),
        verified_pages=verified_pages,
        wrong_pages=wrong_pages,
    )


def _own_vm_pte_bytes() -> int:
    size_bytes = procfs.vm_pte_bytes()
    assert size_bytes is not None, "this process lives"
    return size_bytes


@dataclass(frozen=True)
class Launcher:
    """Who started a client, and reads its report."""

    pid: int
    report_fd: int


def run(target: Target, number: int, span_bytes: int, stride_bytes: int, launcher: Launcher) -> NoReturn:
    """The life of one of the library's clients, in a forked process: never returns.

    SIGUSR1 makes it touch the region once more: that is how it finds out that its owner is gone.
    """
    _leave(launcher)
    inbox = signals.inbox()
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        attachment, done = attach_and_touch(target, span_bytes, stride_bytes)
    except (MshareError, OSError) as error:
        _send(launcher, _failed(number, errors.sentence(error)))
        os._exit(1)
    _send(launcher, Report(os.getpid(), number, touched=done))
    while True:
        signals.wait(inbox)
        for mapping in target.mappings[:1]:
            attachment.view(mapping.offset, 1).tobytes()


def execute(target: Target, number: int, command: Sequence[str], launcher: Launcher) -> NoReturn:
    """Become the user's program; reports only if that fails. Never returns."""
    _leave(launcher)
    os.setpgid(0, 0)
    try:
        os.execvpe(command[0], list(command), {**os.environ, **target.environment(number)})
    except OSError as error:
        _send(launcher, _failed(number, f"{command[0]} cannot be started: {error.strerror}"))
    os._exit(127)


def _leave(launcher: Launcher) -> None:
    """Undo what a fork inherited, the launcher's handlers, and end when the launcher does."""
    signals.leave(CAUGHT)
    syscalls.die_with_parent(signal.SIGTERM)
    if os.getppid() != launcher.pid:
        # It ended before the kernel knew, and nobody would ever end this process.
        os._exit(1)


def _failed(number: int, sentence: str) -> Report:
    # JSON writes a character as up to six bytes.
    return Report(os.getpid(), number, error=sentence[:_ERROR_CHARACTERS])


def _send(launcher: Launcher, report: Report) -> None:
    os.write(launcher.report_fd, record.to_json(report).encode() + b"\n")
