# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the loader would preload the library into a server: it starts the program without it otherwise, and
says so only in the server's log.

What the running server shows is examined before anything is installed, what the library shows once it is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Conflict
from ..host import mounts, procfs
from ..services.choose import systemd_runs
from . import ask
from .clusters import Cluster
from .managers import units
from .server import Server

_MAGIC = b"\x7fELF"
_PT_INTERP = 3
_HEADER_BYTES = 64
# By class, of 32 bits and of 64 (elf(5)): the type of an offset, where e_phoff is, where e_phentsize and
# e_phnum are, and p_offset and p_filesz in a program header.
_LAYOUTS = {1: ("I", 28, 42, "4xI8xI"), 2: ("Q", 32, 54, "8xQ16xQ")}
_INVOCATION = "INVOCATION_ID"
"""What systemd has in the environment of each process that it starts (systemd.exec(5))."""
_ADVICE = "set pages to native, for which PostgreSQL needs no library"


@dataclass(frozen=True)
class _Program:
    """What an ELF file needs of a library that is preloaded into it."""

    bits: int
    machine: int
    interpreter: str | None
    """The base name of its loader, as in ld-linux-x86-64.so.2; None of a static program."""


def require(
    cluster: Cluster,
    server: Server,
    library: str,
    *,
    root: str | None = None,
    will_be_installed: bool = False,
) -> None:
    """Conflict where a server that is started again would not have the library, or could make no region on
    the msharefs at `root`. What is there of a library that `will_be_installed` means nothing."""
    reason = next(_reasons(cluster, server, library, root, will_be_installed), None)
    if reason is not None:
        raise Conflict(f"{reason}, so nothing was changed in PostgreSQL cluster {cluster.id}; {_ADVICE}")


def _reasons(
    cluster: Cluster, server: Server, library: str, root: str | None, will_be_installed: bool
) -> Iterator[str]:
    program = cluster.next_program
    built, own = _program(program), _program("/proc/self/exe")
    if built is not None and own is not None and built != own:
        yield f"{program} {_difference(built, own)}, and the loader cannot preload the library into it"
    place = _existing(os.path.realpath(library))
    if procfs.start_ticks(server.pid) == server.started_ticks:
        yield from _cleared(cluster, server)
        yield from _unseen(server, place)
        if root is not None:
            yield from _read_only(server, root)
    if not will_be_installed:
        yield from _untaken(cluster, program, library)


def _cleared(cluster: Cluster, server: Server) -> Iterator[str]:
    """What takes away the environment that a unit gives, before it reaches the program."""
    if not cluster.own_unit or not systemd_runs():
        return
    pid = server.pid if cluster.patroni is None else cluster.patroni.pid
    environment = procfs.read(f"/proc/{pid}/environ")
    given = environment is None or f"\0{_INVOCATION}=" in f"\0{environment}"
    if not given and _INVOCATION not in units.describe(cluster.unit).unset:
        yield (
            f"unit {cluster.unit} starts process {pid} through something that clears the environment (sudo,"
            f" su -, env -i): {_INVOCATION}, which systemd sets, has not arrived there, and neither would"
            " LD_PRELOAD of a drop-in"
        )


def _read_only(server: Server, root: str) -> Iterator[str]:
    """What keeps a server from making a region."""
    mount = mounts.mount_below(procfs.read(f"/proc/{server.pid}/mountinfo"), _existing(root))
    if mount is not None and "ro" in mount.options.split(","):
        yield (
            f"{root}, where regions are made, is read-only for postmaster {server.pid} (on {mount.path}), as"
            f" ProtectSystem=strict and ReadOnlyPaths= of a unit make it (ReadWritePaths={root} lets it"
            " write there)"
        )


def _unseen(server: Server, place: str) -> Iterator[str]:
    """What hides a place from a server, or keeps it from running what is there."""
    inside = f"/proc/{server.pid}/root{place}"
    if not _same_file(inside, place):
        yield (
            f"{place}, where the library is, is not what postmaster {server.pid} sees there: its unit has"
            " mounts of its own (TemporaryFileSystem=, InaccessiblePaths=, BindPaths=)"
        )
    mount = mounts.mount_below(procfs.read(f"/proc/{server.pid}/mountinfo"), place)
    if mount is not None and "noexec" in mount.options.split(","):
        yield (
            f"{place}, where the library is, is mounted noexec for postmaster {server.pid} (on {mount.path})"
        )


def _untaken(cluster: Cluster, program: str, library: str) -> Iterator[str]:
    """Have the loader say what it would load, as the server's user."""
    answered = ask.loaded(cluster, program, library)
    if answered is None or library in answered.stdout:
        return
    lines = [line for line in answered.stderr.split("\n") if "ld.so" in line]
    yield f"the loader does not preload {library} into {program} for user {cluster.owner}" + (
        f" ({lines[-1]})" if lines else ""
    )


def _difference(built: _Program, own: _Program) -> str:
    if built.interpreter is None:
        return "is linked statically"
    if (built.bits, built.machine) != (own.bits, own.machine):
        return f"is a program of {built.bits} bits (machine {built.machine})"
    return f"has another C library ({built.interpreter}, this host's is {own.interpreter})"


def _program(path: str) -> _Program | None:
    """None for what is no program of its own, as a script, or cannot be read."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            if header[:4] != _MAGIC or header[4] not in _LAYOUTS or header[5] != 1:
                return None
            offset_code, offset_at, sizes_at, segment_code = _LAYOUTS[header[4]]
            (machine,) = struct.unpack_from("<H", header, 18)
            (offset,) = struct.unpack_from(f"<{offset_code}", header, offset_at)
            size, count = struct.unpack_from("<HH", header, sizes_at)
            file.seek(offset)
            table = file.read(size * count)
            for at in range(0, len(table), size):
                if struct.unpack_from("<I", table, at)[0] == _PT_INTERP:
                    begin, length = struct.unpack_from(f"<{segment_code}", table, at)
                    file.seek(begin)
                    name = file.read(length).rstrip(b"\0").decode("utf-8", "replace")
                    return _Program(32 * header[4], machine, os.path.basename(name))
            return _Program(32 * header[4], machine, None)
    except (OSError, struct.error, IndexError):
        return None


def _existing(path: str) -> str:
    """The path, or what is there of it."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _same_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
