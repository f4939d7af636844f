# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a session of their own, where systemd does not run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from .. import files
from ..errors import MshareError, Unavailable
from ..host import procfs
from . import status_file
from .supervisor import (
    START_SECONDS,
    STOP_SECONDS,
    Progress,
    Status,
    Supervisor,
    start_failure,
    status_of,
    wait,
)


def signal_process(status: Status, number: int) -> bool:
    """Send a signal to the very process that wrote a status file; False if it is gone."""
    try:
        pidfd = os.pidfd_open(status["pid"])
    except (ProcessLookupError, OSError):
        return False
    try:
        # Between the look and the signal a pid can be reused; a pidfd cannot.
        if not procfs.alive(status["pid"], status["started_ticks"]):
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


class Detached(Supervisor):
    """A process of its own session, with a status file for a pid file, and a log beside it."""

    kind = "detached"
    survives_reboot = False

    def start(
        self, role: str, name: str, root: str, argv: Sequence[str], first: Status, progress: Progress
    ) -> Status:
        status_path = status_file.file(root, name, role)
        log_path = status_file.file(root, name, role, "log")
        status_file.require_room(root)

        def announce() -> None:
            # In the new process: should this one be killed now, what it started is listed all the same.
            # The locks of this one, such as that of who may change the host, are held until then.
            pid = os.getpid()
            with contextlib.suppress(OSError):  # It will say so itself.
                status_file.write(
                    status_path, {**first, "pid": pid, "started_ticks": procfs.start_ticks(pid)}
                )

        def seen() -> Status:
            status = status_file.read(status_path)
            return status if status is not None and status["pid"] == process.pid else {}

        def ended() -> bool:
            progress(seen())
            return seen().get("state") == "ready" or process.poll() is not None

        def forget() -> None:
            # Another process may have been there first, with a status file of its own.
            alive = status_file.process_alive(status_file.read(status_path))
            files.remove(log_path, *([] if alive else [status_path]))
            files.remove_empty(status_file.directory(root))

        try:
            with open(log_path, "w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=announce,  # It needs nothing that a thread, of a progress bar, could hold.
                    cwd="/",
                )
        except OSError:
            # It may have been announced, and there is no such program.
            forget()
            raise
        try:
            wait(ended, START_SECONDS, f"starting the {role} of {name}", f"see {log_path}")
        except BaseException:
            # Interrupted: nothing half-done stays behind.
            process.terminate()
            process.wait()
            forget()
            raise
        if process.returncode is not None:
            with open(log_path, encoding="utf-8", errors="replace") as log:
                said = log.read().strip().splitlines()[-1:] or ["it said nothing"]
            status = seen()
            forget()
            raise start_failure(
                status,
                f"the {role} of {name} ended with exit code {process.returncode} before it was ready:"
                f" {said[0]}",
                process.returncode,
            )
        return seen()

    def stop(self, role: str, name: str, root: str) -> bool:
        status = status_of(role, name, root)
        stopped = status is not None and signal_process(status, signal.SIGTERM)
        if stopped and status is not None:
            wait(
                lambda: not status_file.process_alive(status),
                STOP_SECONDS,
                f"stopping the {role} of {name} (process {status['pid']})",
                f"see {status_file.file(root, name, role, 'log')}",
            )
        files.remove(*(status_file.file(root, name, role, suffix) for suffix in ("json", "lock", "log")))
        return stopped

    def enabled(self, role: str, name: str) -> bool:
        return False

    def set_enabled(self, role: str, name: str, enabled: bool) -> None:
        if enabled:
            raise Unavailable(
                f"the {role} of {name} cannot be made to survive a reboot: systemd does not run on this"
                " host; start it from this host's own init, or set boot: false"
            )

    def reload(self, role: str, name: str, root: str) -> None:
        status = status_of(role, name, root)
        if status is None or not signal_process(status, signal.SIGHUP):
            raise MshareError(f"the {role} of {name} do not run any more; start them again")
