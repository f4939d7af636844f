# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill an operation at its system calls, or have them fail; then see what is left, and end it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from integration import clusters
from prove import events, operations
from prove.events import Event
from prove.machine import Done, Machine, State, Staying, exposed, new_machine, unfinished
from prove.operations import Operation
from prove.tally import Row
from rig import huge_pages

CODES = {0, 1, 2, 3, 4, 5}
"""Those in the help of the command line, but for an interruption."""
VERDICT = 3
ERRORS = {
    "openat": ("EACCES", "EMFILE", "EIO", "ENOMEM", "ENOSPC"),
    "open": ("EACCES", "EMFILE", "EIO", "ENOMEM", "ENOSPC"),
    "write": ("ENOSPC", "EIO", "EINTR"),
    "pwrite64": ("ENOSPC", "EIO", "EINTR"),
    "mkdir": ("ENOSPC", "EACCES", "EIO"),
    "mkdirat": ("ENOSPC", "EACCES", "EIO"),
    "mknodat": ("ENOSPC", "EACCES", "EIO"),
    "symlinkat": ("ENOSPC", "EACCES", "EIO"),
    "rename": ("ENOSPC", "EIO", "EACCES"),
    "renameat": ("ENOSPC", "EIO", "EACCES"),
    "renameat2": ("ENOSPC", "EIO", "EACCES"),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "ftruncate": ("ENOSPC", "EIO", "EINTR"),
    "fallocate": ("ENOSPC", "EIO", "EINTR"),
    "mmap": ("ENOMEM", "EACCES"),
    "flock": ("EINTR", "ENOLCK"),
    "fchown": ("EPERM", "EIO"),
    "fchownat": ("EPERM", "EIO"),
    "chown": ("EPERM", "EIO"),
    "fchmod": ("EPERM", "EIO"),
    "fchmodat": ("EPERM", "EIO"),
    "chmod": ("EPERM", "EIO"),
    "unlink": ("EIO", "EACCES"),
    "unlinkat": ("EIO", "EACCES"),
    "rmdir": ("EIO", "EACCES"),
    "mount": ("ENOMEM", "EPERM", "EBUSY"),
    "umount2": ("EBUSY", "EPERM"),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "fork": ("EAGAIN", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
}
"""What these calls can answer, by their manual pages."""


class NotRunnable(Exception):
    """An operation that does not even work when nobody disturbs it."""


class Disturbed:
    """One operation on a machine, again and again."""

    def __init__(
        self, machine: Machine, operation: Operation, known: dict[str, set[tuple[int, int, int]]]
    ) -> None:
        self._machine = machine
        self._operation = operation
        self._clean = machine.state()
        self._known = known
        self._events: list[Event] = []
        self._prepared = self._clean
        self._afterwards = self._clean
        with self._target() as words:
            self._prepare()
            self._prepared = machine.state()
            self._learn(self._prepared)
            done = self._run(words, ("-e", f"trace={events.CALLS}"))
            if done.code != 0:
                raise NotRunnable(f"{operation.name}: {done.code} {done.errors}{done.output}")
            self._events = events.parse(done.log)
            self._afterwards = machine.state()
            self._learn(self._afterwards)
        left = self._end()
        if left:
            raise NotRunnable(f"{operation.name}: {left}")

    # -- what is tried

    def kills(self, row: Row, most: int) -> None:
        """kill -9 just before calls that change something."""
        # The first one starts the program.
        for event in events.spread([event for event in self._events[1:] if event.changes], most):
            self._try(row, f"signal=SIGKILL:when={event.number}", event, f"killed at {event.call}")

    def errors(self, row: Row, most: int) -> None:
        """Calls that fail, each with one of the errors that it may have."""
        candidates = [event for event in self._events if event.call in ERRORS and not event.of_interpreter]
        # A pipe of a process's own fails in none of these ways; what it prints to can be any file.
        candidates = [event for event in candidates if not re.match(r"(?:[3-9]|\d\d+)<pipe:", event.text)]
        for number, event in enumerate(events.spread(candidates, most)):
            possible = ERRORS[event.call]
            error = possible[number % len(possible)]
            if error == "ENOSPC" and event.call.startswith("open") and not event.changes:
                error = "EACCES"
            self._try(row, f"error={error}:when={event.number}", event, f"{event.call} fails with {error}")

    # -- one try

    def _try(self, row: Row, how: str, event: Event, what: str) -> None:
        where = f"{self._operation.name}, {what} ({event.number}: {event.text[:90]})"
        found: list[str] = []
        with self._target() as words:
            self._prepare()
            options = ("-e", f"trace={event.call}", "-e", f"inject={event.call}:{how}")
            done = self._run(words, options)
            killed = events.was_killed(done.log)
            if not killed and not events.was_injected(done.log):
                # It took another way this time, and never came there.
                self._end()
                return
            self._machine.settle()
            found += exposed(self._machine.state(), self._known)
            if not killed:
                found += self._answer(done, event)
            if row.injected % 2 == 0:
                found += self._again(words)
        found += self._end()
        row.count([f"{where}: {text}" for text in found])

    def _answer(self, done: Done, event: Event) -> list[str]:
        """What is wrong with how a command took an error."""
        found = self._module_answer(done) if self._operation.module else self._command_answer(done)
        # What is done stays done when only the answer could not be written.
        if done.code != 0 and self._operation.undone and not re.match(r"1<", event.text):
            now = self._machine.state()
            # Whole is fine, too: what failed then was a look at what had been done.
            if now.differences(self._afterwards, content=False):
                found += [f"half-done, {text}" for text in now.differences(self._prepared, content=False)]
        return found

    def _module_answer(self, done: Done) -> list[str]:
        if "Traceback" in done.errors + done.output:
            return [f"a traceback: {done.errors.strip()[-300:]}"]
        try:
            answer = json.loads(done.output)
        except ValueError:
            return [f"no JSON: {done.output[-200:]}{done.errors[-200:]}"]
        return ["a failure without a sentence"] if answer.get("failed") and not answer.get("msg") else []

    def _command_answer(self, done: Done) -> list[str]:
        said = done.errors.strip()
        if "Traceback" in said + done.output:
            return [f"a traceback: {said[-300:]}"]
        if done.code not in CODES:
            return [f"exit code {done.code}: {said[-200:]}"]
        if done.code == VERDICT:
            return [] if done.output.strip() else ["a verdict without a word"]
        if done.code == 0:
            return []
        if not said and "--json" not in self._operation.words:
            return [f"exit code {done.code} without a sentence"]
        return [f"more than one sentence: {said}"] if len(said.splitlines()) > 1 else []

    def _again(self, words: operations.Command) -> list[str]:
        repeated = self._operation.again or words
        if self._operation.name == "umount" and not self._afterwards.differences(self._machine.state()):
            return []
        done = self._machine.run(*repeated)
        if done.code != 0:
            return [f"repeated, it fails with {done.code}: {(done.errors or done.output).strip()[-300:]}"]
        now = self._machine.state()
        if self._operation.role is not None and not self._operation.asked:
            return [f"{path} is still there after a repetition" for path in unfinished(now)]
        return [f"repeated, {text}" for text in now.differences(self._afterwards, content=False)]

    def _end(self) -> list[str]:
        found = []
        for command in self._operation.end:
            done = self._machine.run(*command)
            if done.code != 0:
                said = (done.errors or done.output).strip()[-300:]
                found.append(f"`{operations.shown(command)}` afterwards fails with {done.code}: {said}")
        operations.forget(self._machine)
        quiet = self._machine.quiet(self._clean.processes)
        left = self._machine.state()
        found += left.differences(self._clean)
        if not quiet:
            self._machine.end_processes(self._clean.processes)
        if left.differences(self._clean):
            self._clean_up(left)
        return found

    def _clean_up(self, left: State) -> None:
        """Remove by name what a try has left, so that the next one begins as the first."""
        for path in left.mounts:
            if path not in self._clean.mounts:
                self._machine.run("umount", "--lazy", path)
        for path in sorted(set(left.nodes) - set(self._clean.nodes), reverse=True):
            inside = self._machine.inside(path)
            if inside.is_dir() and not inside.is_symlink():
                self._machine.run("rmdir", path)
            else:
                inside.unlink(missing_ok=True)

    # -- helpers

    def _prepare(self) -> None:
        for command in self._operation.before:
            done = self._machine.run(*command)
            if done.code != 0:
                raise NotRunnable(f"{operations.shown(command)}: {done.errors}{done.output}")

    def _run(self, words: operations.Command, options: tuple[str, ...]) -> Done:
        role, asked = self._operation.role, self._operation.asked
        if role is None:
            return self._machine.traced(words, options)

        def meanwhile(staying: Staying) -> None:
            if asked:
                staying.end_when(staying.listens, asked)
            else:
                staying.end_when(lambda: staying.status(role) in ("ready", "failed"))

        return self._machine.traced(words, options, meanwhile)

    @contextmanager
    def _target(self) -> Iterator[operations.Command]:
        """The words of the operation, with the process that it works on, where it needs one."""
        if self._operation.waits is None:
            yield self._operation.words
            return
        with subprocess.Popen(
            self._machine.words("python3", "-c", self._operation.waits), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                pid = self._machine.pid_of(self._operation.waits)
                yield tuple(str(pid) if word == "TARGET" else word for word in self._operation.words)
            finally:
                self._machine.end_processes(self._clean.processes)
                process.wait()

    def _learn(self, state: State) -> None:
        learn(self._known, state)


def learn(known: dict[str, set[tuple[int, int, int]]], state: State) -> None:
    """Note who may do what with the files of an undisturbed run."""
    for path, node in state.nodes.items():
        known.setdefault(path, set()).add(node.access)


def deployed(machine: Machine) -> dict[str, set[tuple[int, int, int]]]:
    """Who may do what with the files of a whole deployment."""
    known: dict[str, set[tuple[int, int, int]]] = {}
    for command in (operations.MOUNT, operations.CREATE, operations.START, operations.UMOUNT):
        done = machine.run(*command)
        assert done.code == 0, done.errors
        learn(known, machine.state())
    return known


def run(machine: Machine, table: list[Operation], suite: str, most: int) -> Iterator[Row]:
    """Disturb each operation of a table; "kills" or "errors", at most so many times each."""
    known = deployed(machine)
    for operation in table:
        row = Row(
            suite,
            f"`{operation.name}`" if not operation.role else f"{operation.name}, until it is told to end",
        )
        try:
            disturbed = Disturbed(machine, operation, known)
            if suite == "kills":
                disturbed.kills(row, most)
            else:
                disturbed.errors(row, most)
        except NotRunnable as error:
            row.count([str(error)])
            for command in operation.end:
                machine.run(*command)
        yield row


def only(table: list[Operation], names: set[str]) -> list[Operation]:
    return [replace(operation) for operation in table if not names or operation.name in names]


def run_apart(table: list[Operation], suite: str, most: int) -> Iterator[Row]:
    """Disturb what sets up surveys for Prometheus, on a machine of its own."""
    with new_machine() as machine:
        operations.prepare(machine)
        operations.prepare_monitoring(machine)
        yield from run(machine, table, suite, most)


def run_with_pool(table: list[Operation], suite: str, most: int) -> Iterator[Row]:
    """Disturb what changes the machine's pool of huge pages, which others cannot change meanwhile."""
    with huge_pages.alone() as pages, new_machine() as machine:
        machine.has_pool = True
        operations.prepare(machine)
        operations.prepare_pool(machine, pages)
        yield from run(machine, table, suite, most)


def run_with_cluster(
    table: list[Operation], suite: str, most: int, *, has_pool: bool = False
) -> Iterator[Row]:
    """Disturb moving a PostgreSQL cluster there and back."""
    if clusters.missing() is not None:
        return
    with new_machine() as machine:
        machine.has_pool = has_pool
        cluster = clusters.Cluster(machine.host)
        cluster.create(shared_buffers="64MB", dynamic_shared_memory_type="sysv")
        operations.prepare(machine)
        done = machine.run(*operations.PRELOAD)
        assert done.code == 0, done.output + done.errors
        yield from run(machine, table, suite, most)


def run_with_cluster_and_pool(table: list[Operation], suite: str, most: int) -> Iterator[Row]:
    """Disturb applying a remedy to a PostgreSQL cluster and undoing it."""
    with huge_pages.alone():
        yield from run_with_cluster(table, suite, most, has_pool=True)
