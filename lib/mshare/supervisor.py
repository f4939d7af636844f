# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting and stopping the long-lived processes: under systemd where it runs, else detached.

Both kinds write the same status file; what differs is who starts them, and who starts them again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from . import errors, procfs, state, systemd
from .errors import MshareError, Unavailable

Status = dict[str, Any]
Progress = Callable[[Status], None]

# The two roles a process of ours can have, by which its status file and its unit are named.
OWNER = "owner"
CLIENTS = "clients"
UNITS = {OWNER: "mshare-region@{name}.service", CLIENTS: "mshare-clients@{name}.service"}
START_SECONDS = 3600.0
"""Prefaulting 300 GiB takes minutes; a process that makes no progress is the user's to interrupt."""
STOP_SECONDS = 90.0
_POLL_SECONDS = 0.02


def no_progress(status: Status) -> None:
    """The progress of a caller that shows none."""


class Supervisor(ABC):
    """Who keeps the processes of one role and name."""

    kind: str
    survives_reboot: bool

    @abstractmethod
    def start(
        self, role: str, name: str, root: str, argv: Sequence[str], first: Status, progress: Progress
    ) -> Status:
        """Start, wait until the status file says ready, and return it; raises what went wrong.

        `first` is what the status file says until the process writes it itself.
        """

    @abstractmethod
    def stop(self, role: str, name: str, root: str) -> bool:
        """Stop and wait until the process is gone; False if none ran."""

    @abstractmethod
    def enabled(self, role: str, name: str) -> bool:
        """Whether it comes back after a reboot."""

    @abstractmethod
    def set_enabled(self, role: str, name: str, enabled: bool) -> None:
        """Have it come back after a reboot, or not."""

    @abstractmethod
    def reload(self, role: str, name: str, root: str) -> None:
        """Have a running process read its spec again (SIGHUP)."""


def systemd_runs() -> bool:
    """sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def current() -> Supervisor:
    """systemd where it runs and this is root; else detached processes."""
    return Systemd() if systemd_runs() and os.geteuid() == 0 else Detached()


def status_of(role: str, name: str, root: str) -> Status | None:
    """The status of a process that lives; None when there is none or it died."""
    status = state.read(state.file(root, name, role))
    return status if state.process_alive(status) else None


def require_owner(name: str, root: str) -> Status:
    """The status of the owner of a region that can be attached; MshareError without one."""
    status = status_of(OWNER, name, root)
    if status is None or status.get("state") != "ready":
        raise MshareError(
            f"region {name} at {root} has no owner that runs, so there is nothing to attach; create it first"
            " (`mshare create`, or the role dbmem.mshare.region)"
        )
    return status


def wait(condition: Callable[[], bool], seconds: float, what: str, next_step: str) -> None:
    """Poll until a condition holds; MshareError with the next step when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MshareError(f"{what} took longer than {seconds:g} s; {next_step}")
        time.sleep(_POLL_SECONDS)


def settled(role: str, name: str, root: str, progress: Progress) -> Status | None:
    """The status of a process that lives, once it is ready; None where none lives, or it ends before."""
    found: Status | None = None

    def done() -> bool:
        nonlocal found
        found = status_of(role, name, root)
        progress(found or {})
        return found is None or found["state"] == "ready"

    wait(done, START_SECONDS, f"the start of the {role} of {name}", "see `mshare list`")
    return found


def wait_until_ready(role: str, name: str, root: str, progress: Progress) -> None:
    """Wait for a process that somebody else started, systemd at boot for one, and that is still busy."""
    if settled(role, name, root, progress) is None:
        raise MshareError(f"the {role} of {name} ended before it was ready; run this again to start it")


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


def _failure(status: Status | None, said: str, code: int = 1) -> MshareError:
    """What a process wrote down of its own failure; else what is known from outside."""
    if status is not None and status.get("state") == "failed":
        return errors.from_dict(status["error"])
    return errors.from_exit(code, said)


class Detached(Supervisor):
    """A process of its own session, with a status file for a pid file, and a log beside it."""

    kind = "detached"
    survives_reboot = False

    def start(
        self, role: str, name: str, root: str, argv: Sequence[str], first: Status, progress: Progress
    ) -> Status:
        status_path = state.file(root, name, role)
        log_path = state.file(root, name, role, "log")
        state.require_room(root)

        def announce() -> None:
            # In the new process: should this one be killed now, what it started is listed all the same.
            # The locks of this one, such as that of who may change the host, are held until then.
            pid = os.getpid()
            with contextlib.suppress(OSError):  # It will say so itself.
                state.write(status_path, {**first, "pid": pid, "started_ticks": procfs.start_ticks(pid)})

        def seen() -> Status:
            status = state.read(status_path)
            return status if status is not None and status["pid"] == process.pid else {}

        def ended() -> bool:
            progress(seen())
            return seen().get("state") == "ready" or process.poll() is not None

        def forget() -> None:
            # Another process may have been there first, with a status file of its own.
            alive = state.process_alive(state.read(status_path))
            state.remove(log_path, *([] if alive else [status_path]))
            state.remove_empty(state.directory(root))

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
            raise _failure(
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
                lambda: not state.process_alive(status),
                STOP_SECONDS,
                f"stopping the {role} of {name} (process {status['pid']})",
                f"see {state.file(root, name, role, 'log')}",
            )
        state.remove(*(state.file(root, name, role, suffix) for suffix in ("json", "lock", "log")))
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


class Systemd(Supervisor):
    """Template units, installed by the role dbmem.mshare.runtime."""

    kind = "systemd"
    survives_reboot = True

    def start(
        self, role: str, name: str, root: str, argv: Sequence[str], first: Status, progress: Progress
    ) -> Status:
        # Whoever ends it asks systemd, which knows what it has begun to start: `first` is not needed.
        # The unit's ExecStart runs the same program with the spec file of the same name.
        unit = UNITS[role].format(name=name)
        template = systemd.unit_path(UNITS[role].format(name=""))
        if not os.path.exists(template):
            raise Unavailable(
                f"{template} is missing, so systemd cannot keep the {role} of {name}; install it with the"
                " role"
                " dbmem.mshare.runtime"
            )
        state.require_room(root)
        systemd.ask("reset-failed", unit)
        starting = subprocess.Popen(
            ["systemctl", "start", unit], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

        def ended() -> bool:
            progress(status_of(role, name, root) or {})
            return starting.poll() is not None

        try:
            wait(ended, START_SECONDS, f"starting {unit}", f"see `journalctl -u {unit}`")
        except BaseException:
            self.stop(role, name, root)
            raise
        said = (starting.stdout.read() if starting.stdout else "").strip()
        status = status_of(role, name, root)
        if starting.returncode != 0 or status is None:
            failed = state.read(state.file(root, name, role))
            why = systemd.failure(unit) or said
            # Nothing half-done stays behind, and systemd does not try again.
            self.stop(role, name, root)
            raise _failure(failed, f"{unit} did not start: {why}; see `journalctl -u {unit}`")
        return status

    def stop(self, role: str, name: str, root: str) -> bool:
        unit = UNITS[role].format(name=name)
        ran = status_of(role, name, root) is not None
        systemd.ask("stop", unit)
        systemd.ask("reset-failed", unit)
        Detached().stop(role, name, root)
        return ran

    def enabled(self, role: str, name: str) -> bool:
        return systemd.ask("is-enabled", UNITS[role].format(name=name)) == "enabled"

    def set_enabled(self, role: str, name: str, enabled: bool) -> None:
        systemd.systemctl("enable" if enabled else "disable", UNITS[role].format(name=name))

    def reload(self, role: str, name: str, root: str) -> None:
        systemd.systemctl("reload", UNITS[role].format(name=name))
