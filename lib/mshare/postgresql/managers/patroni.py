# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patroni: its configuration store decides about settings, and Patroni itself about every restart.

Patroni starts PostgreSQL through a helper that ends at once, so that the postmaster's parent is an init:
it is recognised by what it leaves in the data directory, by its configuration, and by its unit. A server
that it does not run now is its own all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob

from ...host import procfs
from ...host.processes import Process
from . import pg_ctlcluster, units
from .evidence import Evidence, apart, text_for, text_of
from .manager import Manager

CONFIGURATIONS = ("/etc/patroni/*.yml", "/etc/patroni/*.yaml", "/etc/patroni.yml", "/etc/patroni.yaml")
"""Where Debian, PGDG and Patroni's own documentation have it."""
_PROGRAM = "patroni"
DYNAMIC = "patroni.dynamic.json"
"""Patroni's copy of the settings in its store, in each data directory (patroni/config.py, CACHE_FILENAME)."""
_HEADER = "It will be overwritten by Patroni"
_DATA_DIRECTORY = re.compile(r"""^\s*data_dir\s*:\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", re.M)
_SCOPE = re.compile(r"""^scope\s*:\s*["']?([^"'#\n]+?)["']?\s*(?:#.*)?$""", re.M)
_ENVIRONMENT = "PATRONI_POSTGRESQL_DATA_DIR"


@dataclass(frozen=True)
class Trace:
    """What Patroni writes into the files of a cluster, and leaves there when it no longer runs the cluster. A
    backup takes it to other hosts as well."""

    clause: str
    to_remove: str
    """What to do about one that is left over."""


def recognise(evidence: Evidence) -> str | None:
    return next(_reasons(evidence), None)


def _reasons(evidence: Evidence) -> Iterator[str]:
    yield from _at_work(evidence)
    if not _is_started_without(evidence):
        yield from (trace.clause for trace in traces(evidence))


def traces(evidence: Evidence) -> Iterator[Trace]:
    """What there is of Patroni in a cluster's files."""
    main = os.path.join(evidence.configuration, "postgresql.conf")
    if _HEADER in text_for(main, evidence.data_directory)[:1000]:
        yield Trace(f"{main} says that Patroni overwrites it", "remove these lines at its beginning")
    dynamic = os.path.join(evidence.data_directory, DYNAMIC)
    if os.path.lexists(dynamic):
        yield Trace(f"{dynamic} is Patroni's", "remove it")


def _is_started_without(evidence: Evidence) -> bool:
    """Whether a unit that runs PostgreSQL itself has started the server, and systemd starts no Patroni here.
    A server that does not run may be that of a Patroni that does not run either."""
    unit = evidence.unit_described
    own = unit.starts_postgresql or os.path.basename(unit.program) == pg_ctlcluster.PROGRAM
    return evidence.postmaster is not None and own and not units.started_at_boot(_PROGRAM)


def _at_work(evidence: Evidence) -> Iterator[str]:
    for process in evidence.parents:
        if "patroni" in process.programs:
            yield evidence.started_by(process)
    if re.match(r"(.*-)?patroni\b.*\.service", evidence.unit or ""):
        yield evidence.in_unit()
    for path in configurations():
        if any(
            _same(place, evidence.data_directory)
            for place in _DATA_DIRECTORY.findall(text_for(os.path.realpath(path), evidence.data_directory))
        ):
            yield f"{path} names its data directory {evidence.data_directory}"
    for pid in processes():
        if os.path.realpath(evidence.data_directory) in data_directories_of(pid):
            yield f"Patroni runs as process {pid} for its data directory {evidence.data_directory}"


def configurations() -> list[str]:
    """Patroni's configuration files: where they usually are, and what running ones were given."""
    paths = {path for pattern in CONFIGURATIONS for path in glob(pattern)}
    for pid in processes():
        paths |= {*files_of(pid)}
    return sorted(paths)


def data_directories_of(pid: int) -> set[str]:
    """The data directory of a Patroni that runs, by its environment and by its configuration."""
    own = {_data_directory_of(pid)} - {""}
    if own:
        return {os.path.realpath(path) for path in own}
    places: set[str] = set()
    for path in files_of(pid):
        places |= {os.path.realpath(place) for place in _DATA_DIRECTORY.findall(_text_of(path, pid))}
    return places


def _text_of(path: str, pid: int) -> str:
    process = Process(pid, (procfs.read(f"/proc/{pid}/status") or "").encode("utf-8", "replace"), 0)
    return text_of(os.path.realpath(path), process.uids, process.gids)


def given(pid: int) -> str:
    """The configuration in the command line of a Patroni: a file or a folder; empty where it has none."""
    words = (procfs.read(f"/proc/{pid}/cmdline") or "").rstrip("\0").split("\0")
    program = next((number for number, word in enumerate(words[:3]) if os.path.basename(word) == _PROGRAM), 2)
    paths = [word for word in words[program + 1 :] if not word.startswith("-")]
    return paths[-1] if paths else ""


def files_of(pid: int) -> list[str]:
    """The files of that configuration, in the order in which Patroni reads them (patroni/config.py)."""
    path = given(pid)
    if not path:
        return []
    place = path if path.startswith("/") else os.path.realpath(os.path.join(f"/proc/{pid}/cwd", path))
    if not os.path.isdir(place):
        return [place]
    return sorted(each for suffix in ("yml", "yaml") for each in glob(os.path.join(place, f"*.{suffix}")))


def configured() -> dict[str, str]:
    """Patroni's clusters here, whether they run or not: data directory -> scope, the cluster's name."""
    scopes = {}
    for path in configurations():
        real = os.path.realpath(path)
        with contextlib.suppress(OSError):
            owner = os.stat(real)
            text = text_of(real, {owner.st_uid}, {owner.st_gid})
            scope = _SCOPE.search(text)
            for place in _DATA_DIRECTORY.findall(text):
                scopes[os.path.realpath(place)] = scope[1] if scope else "patroni"
    for pid in processes():
        for place in data_directories_of(pid):
            scopes.setdefault(place, "patroni")
    return {place: scope for place, scope in scopes.items() if os.path.isdir(place)}


def processes() -> list[int]:
    """The Patronis that run on this host, without those of containers."""
    pids = []
    for pid in procfs.pids():
        words = (procfs.read(f"/proc/{pid}/cmdline") or "").split("\0")
        if _PROGRAM in map(os.path.basename, words[:3]) and not {"pid", "root"} & {*apart(pid)}:
            pids.append(pid)
    return pids


def _data_directory_of(pid: int) -> str:
    try:
        pairs = (procfs.read(f"/proc/{pid}/environ") or "").split("\0")
    except PermissionError:
        return ""
    return next((pair.partition("=")[2] for pair in pairs if pair.startswith(f"{_ENVIRONMENT}=")), "")


def _same(path: str, other: str) -> bool:
    if not path:
        return False
    return os.path.realpath(path) == os.path.realpath(other)


# Whether this one can be restarted is decided later (patroni/local.py, patroni/restart.py).
PATRONI = Manager("Patroni", recognise, None)
