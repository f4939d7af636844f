# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a session of their own, where systemd does not run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from .. import files, paths
from ..errors import Conflict, MshareError, Unavailable
from ..host import procfs
from ..host.limits import Host
from . import cgroup, lock, status_file, tree
from .status_file import AnyRole, Role, S, Status, Unread
from .supervisor import (
    START_SECONDS,
    STOP_SECONDS,
    Progress,
    Supervisor,
    start_failure,
    status_of,
    wait,
)

_LEFT_SECONDS = 10.0


def signal_process(pid: int, started_ticks: int, number: int) -> bool:
    """Send a signal to the very process that started then; False if it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Between the check and the signal a pid can be reused; a pidfd cannot.
        if not procfs.alive(pid, started_ticks):
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def _writer(role: Role[S], name: str, root: str) -> tuple[int, int] | None:
    """The pid of a role's process, and when it started: of the lock's holder where its file does not tell."""
    status = status_file.peek(root, name, role)
    if isinstance(status, Unread) and status.pid is None:
        pid = lock.holder(status_file.file(root, name, role, "lock"))
        return None if pid is None else (pid, procfs.start_ticks(pid) or 0)
    if isinstance(status, Unread) and status.alive:
        raise Conflict(status.reason)
    if status is None or not status.pid or not status.started_ticks:
        return None
    return status.pid, status.started_ticks


def _make_cgroup(role: AnyRole, name: str, root: str) -> str | None:
    """A cgroup for a process that starts programs, written down so that it can be ended with all in it."""
    try:
        # What a launcher that was killed has left is not to be forgotten for the new one.
        _end_cgroup(role, name, root)
        record = status_file.file(root, name, role, "cgroup")
        path = cgroup.make(f"{role.name}-{paths.file_name(name)}") if role.starts_programs else None
        if path is not None:
            files.write_text(record, f"{path}\n", durable=False)
        return path
    except BaseException:
        # Without a process its directory is of no use.
        files.remove_empty(status_file.directory(root))
        raise


def _end_cgroup(role: AnyRole, name: str, root: str) -> None:
    record = status_file.file(root, name, role, "cgroup")
    path = files.read_text(record)
    if path is not None:
        cgroup.end(path.strip(), _LEFT_SECONDS)
        files.remove(record)


def _announcement(status_path: str, first: Status, group: str | None) -> Callable[[], None]:
    """What a new process does before anything else: it says that it is there, and goes into its cgroup."""

    def announce() -> None:
        # Should the process that starts it be killed now, what it started is listed all the same.
        # The locks of that one, such as that of who may change the host, are held until then.
        with contextlib.suppress(OSError):  # It will say so itself.
            status_file.write(status_path, status_file.of_process(first, os.getpid()))
        with contextlib.suppress(OSError):  # Its session is known as well.
            if group is not None:
                cgroup.enter(group)

    return announce


class Detached(Supervisor):
    """A process of its own session, with a status file for a pid file, and a log beside it."""

    kind = "detached"
    survives_reboot = False

    def start(
        self, role: Role[S], name: str, root: str, argv: Sequence[str], first: S, progress: Progress
    ) -> S:
        status_path = status_file.file(root, name, role)
        log_path = status_file.file(root, name, role, "log")
        status_file.require_room(root)
        announced = _announcement(status_path, first, _make_cgroup(role, name, root))

        def seen() -> S | None:
            status = status_file.read(root, name, role)
            return status if status is not None and status.pid == process.pid else None

        def ready() -> bool:
            status = seen()
            progress(status)
            return status is not None and status.state == "ready"

        def ended() -> bool:
            return ready() or process.poll() is not None

        def forget() -> None:
            # Another process may have been there first, with a status file of its own.
            status = status_file.peek(root, name, role)
            alive = status is not None and status.alive
            files.remove(log_path, *([] if alive else [status_path]))
            if not alive:
                _end_cgroup(role, name, root)
            files.remove_empty(status_file.directory(root))

        try:
            # What a client's program prints may be nobody else's to read.
            files.remove(log_path)
            with open(files.create_file(log_path, os.O_WRONLY, 0o640), "w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=announced,  # It needs nothing that a thread, of a progress bar, could hold.
                    cwd="/",
                )
        except OSError:
            # It may have been announced, and there is no such program.
            forget()
            raise
        try:
            wait(ended, START_SECONDS, f"starting the {role} of {name}", f"see {log_path}")
            status = seen()
            if process.returncode is not None:
                with open(log_path, encoding="utf-8", errors="replace") as log:
                    last_line = log.read().strip().splitlines()[-1:] or ["its log is empty"]
                raise start_failure(
                    status,
                    f"the {role} of {name} ended with exit code {process.returncode} before it was ready:"
                    f" {last_line[0]}",
                    process.returncode,
                )
            if status is None:
                raise start_failure(None, f"the {role} of {name} was ended as soon as it was ready")
            return status
        except BaseException:
            # It failed, this was interrupted, or its status cannot be read: nothing half-done stays behind.
            process.terminate()
            process.wait()
            forget()
            raise

    def stop(self, role: Role[S], name: str, root: str) -> bool:
        writer = _writer(role, name, root)
        stopped = writer is not None and signal_process(*writer, signal.SIGTERM)
        if stopped and writer is not None:
            pid, started_ticks = writer
            wait(
                lambda: not procfs.alive(pid, started_ticks),
                STOP_SECONDS,
                f"stopping the {role} of {name} (process {pid})",
                f"see {status_file.file(root, name, role, 'log')}",
            )
        if writer is not None:
            # A launcher that was killed could not end what its clients' programs had started.
            path = f"MSHARE_PATH={os.path.join(root, name)}"
            tree.end(tree.by_pid(tree.session(*writer, path)), _LEFT_SECONDS)
        _end_cgroup(role, name, root)
        files.remove(*(status_file.file(root, name, role, suffix) for suffix in status_file.SUFFIXES))
        files.remove_empty(status_file.directory(root))
        return stopped

    @property
    def why_no_reboot(self) -> str:
        if Host().runs_systemd():
            return f"systemd starts what root deployed, and this is uid {os.geteuid()}"
        return "systemd does not run on this host"

    def enabled(self, role: AnyRole, name: str) -> bool:
        return False

    def set_enabled(self, role: AnyRole, name: str, enabled: bool) -> None:
        if enabled:
            raise Unavailable(
                f"the {role} of {name} cannot be made to survive a reboot: {self.why_no_reboot}; start it"
                " from this host's own init, or set boot: false"
            )

    def reload(self, role: Role[S], name: str, root: str) -> None:
        status = status_of(role, name, root)
        if status is None or not signal_process(status.pid, status.started_ticks, signal.SIGHUP):
            raise MshareError(f"the {role} of {name} are no longer running; start them again")
