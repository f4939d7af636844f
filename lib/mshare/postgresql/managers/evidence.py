# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host shows about who manages a cluster: processes, control groups, namespaces, files.

Only reads, with the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ... import files
from ...host import processes, procfs
from ...host.limits import Host
from ...host.processes import Vanished
from ...host.processes import unit as unit_of
from ..configuration import options
from . import units

PROGRAMS = ("postgres", "postmaster", "edb-postgres", "edb-postmaster")
"""What a server's program is called: by PostgreSQL and by EDB Postgres Advanced Server."""
_INTERPRETERS = re.compile(r"(python|perl|ruby|bash|dash|sh|java)[\d.]*\Z")
_DELETED = " (deleted)"
_TEXT_BYTES = 1 << 20
_NAMESPACES = ("pid", "mnt")
_MAIN = "postgresql.conf"
# user@1000.service runs a systemd of its own, with all of that user's units and sessions below it.
_USER_MANAGER = re.compile(r"user@\d+\.service/.+")


@dataclass(frozen=True)
class Ancestor:
    """A process above the postmaster."""

    pid: int
    title: str
    """Its command line, or its name in brackets where it has none."""

    @property
    def words(self) -> tuple[str, ...]:
        """The base names of its command line's words: `/usr/bin/python3 /usr/bin/patroni x.yml`."""
        return tuple(os.path.basename(word) for word in self.title.split())

    @property
    def programs(self) -> tuple[str, ...]:
        """What it runs: its program, and if that is an interpreter, the script that this was given. Any
        other word may name anything."""
        first, rest = self.words[:1], self.words[1:]
        if first and _INTERPRETERS.match(first[0]):
            first += tuple(word for word in rest if not word.startswith("-"))[:1]
        # A process that sets its title writes a colon after its name: "pg_autoctl: start/stop postgres".
        return tuple(word.rstrip(":") for word in first)


@dataclass(frozen=True)
class Evidence:
    """What is known about a cluster."""

    data_directory: str
    configuration: str
    """The folder of its postgresql.conf."""
    postmaster: int | None = None
    """None if it does not run."""
    parents: tuple[Ancestor, ...] = ()
    """From its parent upwards, without the first process of the host."""
    cgroups: tuple[str, ...] = ()
    """Its paths in the hierarchies, without those parts that this process shares."""
    unit: str | None = None
    """The systemd unit it runs in."""
    starts: str = ""
    """What that unit runs (ExecStart)."""
    programs: str = ""
    """The folder of the server's programs."""
    apart: tuple[str, ...] = ()
    """What it does not share with this process: "pid" and "mnt" namespaces, the "root" file system."""
    is_first: bool = False
    """Whether it is the first process of its pid namespace, as in a container without an init."""
    transient: bool = False
    """Whether systemd-run made its unit."""
    of_user: str | None = None
    """What it is in below a user's own systemd, which is no unit of the host's."""
    unit_is_for: str | None = None
    """The directory of another cluster, for which its unit is."""
    beside: tuple[str, ...] = ()
    """The data directories of other servers in the same unit."""
    drop_ins: tuple[str, ...] = ()
    """The files that change its unit."""
    main: str = ""
    """Its configuration file; empty for the postgresql.conf in its folder."""

    @property
    def unit_described(self) -> units.Unit:
        return units.Unit(self.unit or "", self.starts)

    def started_by(self, process: Ancestor) -> str:
        """A clause for one of its parents."""
        return f"its postmaster {self.postmaster} was started by process {process.pid}, {process.title}"

    def in_unit(self) -> str:
        """A clause for its unit."""
        return f"its postmaster {self.postmaster} is in unit {self.unit}"


def gather(data_directory: str, configuration: str, unit: str | None = None) -> Evidence:
    """Everything that the host shows about the cluster in a data directory.

    `unit` is what is known to start it, for one that does not run.
    """
    servers = postmasters()
    pid = next((pid for pid, place in servers if _same_file(place, data_directory)), None)
    if pid is not None:
        # The kernel may show a path outside of this host: in a chroot, of a unit with mounts of its own.
        return replace(of_process(pid, configuration, servers), data_directory=data_directory)
    if unit is not None:
        return replace(stopped(data_directory, units.describe(unit)), configuration=configuration)
    return Evidence(data_directory, configuration)


def of_process(
    pid: int, configuration: str | None = None, servers: Sequence[tuple[int, str]] | None = None
) -> Evidence:
    """The same for a postmaster that runs; its data directory is its working directory. `servers` are all
    postmasters of the host, where the caller knows them."""
    data_directory = _data_directory(pid)
    unit = unit_of_process(pid)
    described = units.describe(unit) if unit is not None else units.Unit("")
    main = _main(pid, data_directory)
    folder = configuration or os.path.dirname(main)
    own = any(described.is_for(place) for place in (data_directory, folder))
    others = [other for other, __ in servers or postmasters() if other != pid] if unit is not None else []
    return Evidence(
        data_directory,
        folder,
        pid,
        tuple(_parents(pid)),
        tuple(_foreign_cgroups(pid)),
        unit,
        described.starts,
        os.path.dirname(_executable(pid)),
        tuple(apart(pid)),
        _pid_inside(pid) == 1,
        described.transient,
        _of_user(pid),
        None if own else described.data_directory,
        tuple(_link(other, "cwd") for other in others if unit_of_process(other) == unit),
        described.drop_ins,
        main,
    )


def unit_of_process(pid: int) -> str | None:
    """The unit of this host's systemd that a process is in; None where none runs: control groups may be those
    of a machine around this host. A user's own systemd has units of the same names, which are others."""
    if not Host().runs_systemd() or _of_user(pid) is not None:
        return None
    return unit_of(_path_of_systemd(pid))


def _of_user(pid: int) -> str | None:
    match = _USER_MANAGER.search(_path_of_systemd(pid) or "")
    return match[0] if match else None


def stopped(data_directory: str, unit: units.Unit) -> Evidence:
    """The same for a cluster that does not run, and that a unit starts."""
    programs = os.path.dirname(os.path.realpath(unit.program))
    main = unit.configuration_file or os.path.join(unit.data_directory or data_directory, _MAIN)
    return Evidence(
        data_directory,
        os.path.dirname(main),
        unit=unit.name,
        starts=unit.starts,
        programs=programs,
        drop_ins=unit.drop_ins,
        main=main,
    )


def _executable(pid: int) -> str:
    """Its program; likewise the one in its command line, if that is the one."""
    shown, place = _link(pid, "exe"), f"/proc/{pid}/exe"
    given = _arguments(pid)[0]
    if not _same_file(shown, place) and given.startswith("/") and _same_file(given, place):
        return os.path.realpath(given)
    return shown


def _arguments(pid: int) -> list[str]:
    return (procfs.read(f"/proc/{pid}/cmdline") or "").rstrip("\0").split("\0")


def _data_directory(pid: int) -> str:
    """Its working directory. Of a path that is none on this host, as the kernel shows it of a process in a
    chroot with mounts of its own, the one that the server has noted, if it leads there."""
    shown, place = _link(pid, "cwd"), f"/proc/{pid}/cwd"
    if _same_file(shown, place):
        return shown
    with contextlib.suppress(Vanished, IndexError):
        process = processes.of_pid(pid)
        noted = text_of(f"{place}/postmaster.pid", process.uids, process.gids).split("\n")[1].strip()
        if noted.startswith("/") and _same_file(noted, place):
            return os.path.realpath(noted)
    return shown


def _main(pid: int, data_directory: str) -> str:
    """Its configuration file: config_file, or the postgresql.conf in what -D names, else with the data."""
    given = options(_arguments(pid))
    if "config_file" in given:
        # Relative to where it was started, which for units is the root, unless they say otherwise.
        return os.path.join("/", given["config_file"][0])
    named = os.path.join("/", given.get("data_directory", (data_directory, ""))[0])
    # The way to the data directory may have links that its owner has made; the kernel shows where they led.
    elsewhere = not _same_file(named, data_directory) and os.path.isfile(os.path.join(named, _MAIN))
    return os.path.join(named if elsewhere else data_directory, _MAIN)


def postmasters() -> list[tuple[int, str]]:
    """Every postmaster of the host, in containers as well, with a path to its data directory."""
    candidates = {pid for pid in procfs.pids() if _program(pid) in PROGRAMS}
    servers = []
    for pid in sorted(candidates):
        # Backends are children of a postmaster, and run the same program.
        if parent(pid) in candidates:
            continue
        place = f"/proc/{pid}/cwd"
        try:
            process = processes.of_pid(pid)
        except Vanished:
            continue
        lines = text_of(f"{place}/postmaster.pid", process.uids, process.gids).split("\n")
        if lines[0].strip() == str(_pid_inside(pid)):
            servers.append((pid, place))
    return servers


def text_of(path: str, uids: Collection[int], gids: Collection[int] = ()) -> str:
    """The beginning of a file that belongs to one of `uids`, or that they may read; empty for everything
    else, and for a file that cannot be read.

    Who owns the folder may have put a link, a pipe or somebody else's file there.
    """
    with contextlib.suppress(OSError, files.NotTrusted):
        return files.read_foreign(path, uids=uids, gids=gids, limit_bytes=_TEXT_BYTES) or ""
    return ""


def text_for(path: str, directory: str) -> str:
    """The same for the owner of a directory: the user that a cluster runs as owns its data directory. For
    one that is not there, as of a container, this user."""
    try:
        owner = os.stat(directory)
    except OSError:
        return text_of(path, {os.geteuid()})
    return text_of(path, {owner.st_uid}, {owner.st_gid})


def parent(pid: int) -> int | None:
    """None for a process that is gone."""
    text = procfs.read(f"/proc/{pid}/stat")
    return None if text is None else int(text[text.rindex(")") + 2 :].split()[1])


def _program(pid: int) -> str:
    name = os.path.basename(_link(pid, "exe"))
    # The package was upgraded under a server that runs.
    return name[: -len(_DELETED)] if name.endswith(_DELETED) else name


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def _same_file(path: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(path, other)
    return False


def _pid_inside(pid: int) -> int:
    """Its number in its own pid namespace."""
    lines = procfs.lines(procfs.read(f"/proc/{pid}/status"))
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), pid)


def _parents(pid: int) -> list[Ancestor]:
    ancestors = []
    above = parent(pid)
    while above is not None and above > 1:
        ancestors.append(Ancestor(above, procfs.command(above)))
        above = parent(above)
    return ancestors


def _cgroup_lines(pid: int | str) -> list[tuple[str, str]]:
    """(controllers, path) in each hierarchy."""
    cgroups = procfs.cgroups(procfs.read(f"/proc/{pid}/cgroup"))
    return [(cgroup.controllers, cgroup.path) for cgroup in cgroups]


def _path_of_systemd(pid: int) -> str | None:
    paths = dict(_cgroup_lines(pid))
    return paths.get("name=systemd") if paths.get("", "/") == "/" else paths.get("")


def _foreign_cgroups(pid: int) -> list[str]:
    """What is beyond the control groups of this process: a host may be a container itself."""
    own = dict(_cgroup_lines("self"))
    paths = []
    for controllers, path in _cgroup_lines(pid):
        shared = set(own.get(controllers, "/").split("/"))
        rest = [part for part in path.split("/") if part not in shared]
        if rest:
            paths.append("/".join(rest))
    return sorted(set(paths))


def apart(pid: int) -> list[str]:
    """What a process does not share with this one, as in Evidence."""
    differences = []
    for name in _NAMESPACES:
        if _link(pid, f"ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            differences.append(name)
    if not _same_file(f"/proc/{pid}/root", "/"):
        differences.append("root")
    return differences
