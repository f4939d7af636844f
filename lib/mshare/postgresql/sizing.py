# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many huge pages a PostgreSQL needs at its next start, as PostgreSQL itself reckons.

`postgres -C shared_memory_size_in_huge_pages` answers that for a server that is stopped; beside a running
one it stops at the lock of the data directory. It is therefore asked in a scratch directory, whose links
lead to the server's version, control file and ALTER SYSTEM settings, with the server's own configuration.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from .. import files
from ..errors import MshareError
from ..host import accounts, procfs
from ..host.processes import Process
from ..units import KIB
from . import configuration

COUNTS_HUGE_PAGES = 15
"""The first version that can be asked."""
PARAMETER = "shared_memory_size_in_huge_pages"
_SECONDS = 120
"""A server's preloaded libraries are loaded to answer."""
_READ = ("PG_VERSION", "global/pg_control", "postgresql.auto.conf")
_LOCK = "postmaster.pid"
_OURS = ("data_directory", "config_file", "huge_page_size")


class Unanswered(MshareError):
    """PostgreSQL could not be asked; the message is a clause that says why."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, by its postmaster."""

    pid: int
    executable: str
    data_directory: str


def huge_pages(server: Server, page_bytes: int) -> int:
    """Huge pages of a size that the server needs at its configured settings; Unanswered with the reason.

    Asked as the server's user: root does not run what others may change.
    """
    status = procfs.read(f"/proc/{server.pid}/status")
    if status is None:
        raise Unanswered(f"its postmaster {server.pid} has ended")
    process = Process(server.pid, status.encode("utf-8", "surrogateescape"), 0)
    if os.geteuid() not in (0, process.uid):
        raise Unanswered(f"only root and its own user (uid {process.uid}) may ask it")
    if not all(_is_here(process, path) for path in (server.executable, server.data_directory)):
        raise Unanswered("its program and files are those of a container, or not there any more")
    words = [server.executable, *_configured(process, server)]
    return _asked(process.uid, words, server.data_directory, page_bytes)


def require_counting(version: str) -> None:
    """Unanswered for a version that does not know the parameter."""
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < COUNTS_HUGE_PAGES:
        raise Unanswered(f"PostgreSQL {version} cannot say ({COUNTS_HUGE_PAGES} can)")


def of_stopped(uid: int, executable: str, data_directory: str, main: str, page_bytes: int) -> int:
    """As `huge_pages`, of a server of user `uid` that does not run; `main` is its postgresql.conf."""
    if os.geteuid() not in (0, uid):
        raise Unanswered(f"only root and its own user (uid {uid}) may ask it")
    return _asked(uid, [executable, "-c", f"config_file={main}"], data_directory, page_bytes)


def _asked(uid: int, program: list[str], data_directory: str, page_bytes: int) -> int:
    """Ask a program, with what it is started with."""
    # Certificates are beside the data, by default, and take no shared memory.
    asked = ["-c", f"huge_page_size={page_bytes // KIB}kB", "-c", "ssl=off", "-C", PARAMETER]
    with _scratch(uid, data_directory) as scratch:
        where = ["-D", scratch, "-c", f"data_directory={scratch}"]
        answer = _answer(uid, [program[0], *where, *program[1:], *asked])
    if not answer.isdigit() or int(answer) == 0:
        raise Unanswered(f"`postgres -C {PARAMETER}` answers {answer!r}")
    return int(answer)


def _is_here(process: Process, path: str) -> bool:
    """Whether a path means the same to the server as here. A unit may have mounts of its own for others."""
    try:
        return os.path.samefile(process.path("root") + path, path)
    except OSError:
        return False


def _configured(process: Process, server: Server) -> list[str]:
    """What the server was started with, and where its configuration is."""
    data = server.data_directory
    try:
        written = files.read_foreign(f"{data}/postmaster.opts", uids=process.uids, gids=process.gids)
    except (OSError, files.NotTrusted):
        written = None
    given = configuration.options(
        process.arguments() if written is None else configuration.started_with(written)
    )
    folder = given.get("data_directory", (data, ""))[0]
    if not os.path.isfile(os.path.join(folder, "postgresql.conf")):
        folder = data
    main = given.get("config_file", (os.path.join(folder, "postgresql.conf"), ""))[0]
    words = ["-c", f"config_file={os.path.join(data, main)}"]
    for name, (value, __) in given.items():
        if name not in _OURS:
            words += ["-c", f"{name}={value}"]
    return words


@contextlib.contextmanager
def _scratch(uid: int, data: str) -> Iterator[str]:
    """A data directory in which nothing runs, with what PostgreSQL reads before it reckons."""
    # Not where TMPDIR says: the server's user may have no way there.
    scratch = tempfile.mkdtemp(prefix="mshare-postgresql-", dir="/tmp")
    inside = os.path.join(scratch, "global")
    try:
        files.make_directory(inside, 0o700)
        for name in _READ:
            os.symlink(os.path.join(data, name), os.path.join(scratch, name))
        if os.geteuid() == 0:
            user = accounts.entry(uid)
            for folder in (inside, scratch):
                files.set_access(folder, files.Access(0o700, user.pw_uid, user.pw_gid))
        yield scratch
    finally:
        files.remove(*(os.path.join(scratch, name) for name in (*_READ, _LOCK)))
        files.remove_empty(inside, scratch)


def _answer(uid: int, words: list[str]) -> str:
    """What a program prints when that user runs it; Unanswered, with its last words, where it fails."""
    user = accounts.entry(uid)
    is_root = os.geteuid() == 0
    try:
        asked = subprocess.run(
            words,
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            user=uid if is_root else None,
            group=user.pw_gid if is_root else None,
            extra_groups=os.getgrouplist(user.pw_name, user.pw_gid) if is_root else None,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"`{words[0]} -C {PARAMETER}` did not answer ({error})") from None
    if asked.returncode != 0:
        last = asked.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Unanswered(f"`{words[0]} -C {PARAMETER}` failed: {last}")
    return asked.stdout.decode("utf-8", "replace").strip()
