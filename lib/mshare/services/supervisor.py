# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting and stopping the long-lived processes: under systemd where it runs, else detached.

Both kinds write the same status file; what differs is who starts them, and who starts them again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Union

from ..errors import MshareError, from_exit
from . import status_file
from .status_file import AnyRole, Role, S, Status

Progress = Callable[[Union[Status, None]], None]
"""Called again and again with the status of a process that starts; None while there is none."""
START_SECONDS = 3600.0
"""Prefaulting 300 GiB takes minutes; a process that makes no progress is the user's to interrupt."""
STOP_SECONDS = 90.0
_POLL_SECONDS = 0.02
_REST = 9
"""Times what a look took: so that looking takes at most a tenth of a processor."""


def no_progress(status: Status | None) -> None:
    """The progress of a caller that shows none."""


class Supervisor(ABC):
    """What keeps the processes of one role and name running."""

    kind: str
    survives_reboot: bool

    @property
    def why_no_reboot(self) -> str | None:
        """Why its processes do not come back after a reboot; None if they can."""
        return None

    @abstractmethod
    def start(
        self, role: Role[S], name: str, root: str, argv: Sequence[str], first: S, progress: Progress
    ) -> S:
        """Start, wait until the status file says ready, and return it; raises the reason for a failure.

        `first` is what the status file says until the process writes it itself.
        """

    @abstractmethod
    def stop(self, role: Role[S], name: str, root: str) -> bool:
        """Stop and wait until the process is gone; False if none ran. Ends what cannot be read, too."""

    @abstractmethod
    def enabled(self, role: AnyRole, name: str) -> bool:
        """Whether it comes back after a reboot."""

    @abstractmethod
    def set_enabled(self, role: AnyRole, name: str, enabled: bool) -> None:
        """Have it come back after a reboot, or not."""

    @abstractmethod
    def reload(self, role: Role[S], name: str, root: str) -> None:
        """Have a running process read its spec again (SIGHUP)."""


def status_of(role: Role[S], name: str, root: str) -> S | None:
    """The status of a process that lives; None where there is none. Raises as `status_file.read`."""
    status = status_file.read(root, name, role)
    return status if status is not None and status.alive else None


def wait(condition: Callable[[], bool], seconds: float, what: str, next_step: str) -> None:
    """Poll until a condition holds; MshareError with the next step when it does not in time."""
    deadline = time.monotonic() + seconds
    before = time.process_time()
    while not condition():
        if time.monotonic() > deadline:
            raise MshareError(f"{what} took longer than {seconds:g} s; {next_step}")
        # To read how thousands of clients are takes a while, which they could use themselves.
        time.sleep(max(_POLL_SECONDS, _REST * (time.process_time() - before)))
        before = time.process_time()


def settled(role: Role[S], name: str, root: str, progress: Progress) -> S | None:
    """The status of a process that lives, once it is ready; None where none lives, or it ends before."""
    status: S | None = None

    def done() -> bool:
        nonlocal status
        status = status_of(role, name, root)
        progress(status)
        return status is None or status.state == "ready"

    wait(done, START_SECONDS, f"the start of the {role} of {name}", "see `mshare list`")
    return status


def wait_until_ready(role: Role[S], name: str, root: str, progress: Progress) -> None:
    """Wait for a process that is still starting and was started elsewhere, such as by systemd at boot."""
    if settled(role, name, root, progress) is None:
        raise MshareError(f"the {role} of {name} ended before it was ready; run this again to start it")


def start_failure(status: Status | None, message: str, code: int = 1) -> MshareError:
    """What a process wrote down of its own failure; else what is known from outside."""
    if status is not None and status.error is not None:
        return status.error.to_error()
    return from_exit(code, message)
