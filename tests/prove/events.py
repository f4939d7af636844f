# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The events of a command: its system calls, counted as strace counts them."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

CHANGES = (
    *("mkdir", "mkdirat", "mknod", "mknodat", "openat", "open", "creat", "symlink", "symlinkat", "link"),
    *("linkat", "write", "pwrite64", "writev", "sendto", "sendmsg", "ftruncate", "truncate", "fallocate"),
    *("fchown", "fchownat", "chown", "lchown", "chmod", "fchmod", "fchmodat", "fchmodat2", "setxattr"),
    *("fsetxattr", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("mount", "umount2", "clone", "clone3", "fork", "vfork", "execve", "kill", "tgkill", "exit_group"),
    *("pidfd_send_signal", "flock", "mmap", "munmap", "madvise", "process_madvise", "sendfile"),
)
"""The system calls with which a process changes something outside of itself, and those that come between."""
CALLS = ",".join(f"?{name}" for name in CHANGES)
"""For strace, which leaves out what an architecture lacks."""

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
# What an interpreter does for itself: it ends with messages of its own if that fails.
_INTERPRETER = tuple(
    re.escape(path)
    for path in sorted(
        {
            sys.prefix,
            sys.base_prefix,
            sysconfig.get_path("stdlib"),
            "/usr/lib",
            "/lib",
            "/etc/ld.so",
            "/etc/locale",
        }
    )
)
_OWN = re.compile("|".join(_INTERPRETER) + r"|\.py\b|\.pyc\b|\.so\b|__pycache__")
_FILE = re.compile(r"\d+<(/[^>]*)>")


@dataclass(frozen=True)
class Event:
    """One system call of a command."""

    call: str
    number: int
    """Which one of that name in its process, from 1."""
    text: str
    """Its arguments and result, as strace shows them."""

    @property
    def changes(self) -> bool:
        """Whether it changes anything outside of the process, or tells somebody something."""
        if self.call in ("open", "openat", "creat"):
            return "O_CREAT" in self.text or "O_TRUNC" in self.text
        if self.call == "mmap":
            return "MAP_SHARED" in self.text
        return self.call not in ("munmap", "madvise")

    @property
    def of_interpreter(self) -> bool:
        """Whether it belongs to the start of the interpreter, and not to the program."""
        if self.call in ("execve", "exit_group", "munmap", "madvise"):
            return True
        if self.call == "mmap":
            return _FILE.search(self.text) is None or _OWN.search(self.text) is not None
        return _OWN.search(self.text) is not None


def parse(log: str) -> list[Event]:
    """The events in a strace log of one process."""
    seen: Counter[str] = Counter()
    events = []
    for line in log.splitlines():
        match = _CALL.match(line)
        if match:
            name = match.group(1)
            seen[name] += 1
            events.append(Event(name, seen[name], match.group(2)))
    return events


def spread(events: Sequence[Event], most: int) -> list[Event]:
    """So many of the events, evenly, with the first and the last."""
    if len(events) <= most:
        return list(events)
    if most == 1:
        return [events[len(events) // 2]]
    step = (len(events) - 1) / (most - 1)
    return [events[round(number * step)] for number in range(most)]


def was_killed(log: str) -> bool:
    return "+++ killed by SIGKILL +++" in log


def was_injected(log: str) -> bool:
    return "(INJECTED)" in log
