# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL clusters of a host: of Debian's postgresql-common, and of plain systemd units."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from glob import glob

from .. import files
from ..errors import Conflict, Unavailable
from ..host import accounts
from ..host.limits import Host
from . import configuration
from .managers import choose, evidence, patroni, pg_ctlcluster, units
from .managers.evidence import Evidence
from .managers.patroni import PATRONI
from .managers.systemd_unit import SYSTEMD_UNIT
from .patroni import local

COMMON = "/etc/postgresql-common"
PROGRAMS = "/usr/lib/postgresql"
LOGS = "/var/log/postgresql"
CONTROL = f"/usr/bin/{pg_ctlcluster.PROGRAM}"
_VERSION = re.compile(r"[0-9]{1,2}(\.[0-9]{1,2})?\Z")


@dataclass(frozen=True)
class Cluster:
    """One cluster: a version, a name, and the folders that go with them."""

    version: str
    name: str
    data_directory: str
    uid: int
    gid: int
    configuration: str
    """The folder of its postgresql.conf."""
    programs: str
    """The folder of its programs."""
    plain_unit: str | None = None
    """The unit that starts it directly; None for a cluster of Debian's pg_ctlcluster, or of Patroni's."""
    patroni: local.Member | None = None
    """The member of Patroni's that runs it."""
    main_name: str = "postgresql.conf"
    """What its configuration file is called: -c config_file= may name another."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What is odd about it and keeps nobody from moving it."""

    @property
    def is_debian(self) -> bool:
        """Whether its files are where Debian's postgresql-common has them."""
        return self.configuration.startswith(f"{pg_ctlcluster.CONFIGURATION}/")

    @property
    def id(self) -> str:
        """15-main of Debian; elsewhere the unit, as postgresql-16 of PGDG on EL, or Patroni's scope."""
        return f"{self.version}-{self.name}" if self.is_debian else self.name

    @property
    def unit(self) -> str:
        """The unit that starts it: for Patroni's, Patroni's own."""
        if self.patroni is not None:
            return self.patroni.unit
        return self.plain_unit or f"postgresql@{self.id}.service"

    @property
    def own_unit(self) -> bool:
        """Whether what its unit has in Environment= reaches the server: not through pg_ctlcluster."""
        return self.plain_unit is not None or self.patroni is not None

    @property
    def main(self) -> str:
        """Its postgresql.conf."""
        return os.path.join(self.configuration, self.main_name)

    @property
    def owner(self) -> str:
        """The name of the user it runs as."""
        return accounts.entry(self.uid).pw_name

    @property
    def log(self) -> str:
        """Where the server writes; elsewhere than on Debian the file that it last named, or none."""
        if not self.is_debian:
            path = os.path.join(self.data_directory, "current_logfiles")
            named = evidence.text_of(path, {self.uid}, {self.gid})
            paths = [line.partition(" ")[2] for line in named.split("\n") if line.startswith("stderr ")]
            return os.path.join(self.data_directory, paths[0]) if paths else ""
        link = os.path.join(self.configuration, "log")
        return os.path.realpath(link) if os.path.islink(link) else f"{LOGS}/postgresql-{self.id}.log"

    def program(self, name: str) -> str:
        return os.path.join(self.programs, name)

    @property
    def server_program(self) -> str:
        """Its postgres, whatever that is called."""
        paths = [self.program(name) for name in evidence.PROGRAMS]
        return next((path for path in paths if os.path.exists(path)), paths[0])

    @property
    def next_program(self) -> str:
        """The postgres that its next start runs: a unit's path may lead elsewhere by now."""
        if self.plain_unit is None:
            return self.server_program
        program = os.path.realpath(units.describe(self.plain_unit).program)
        return replace(self, programs=os.path.dirname(program)).server_program

    def managed(self) -> Cluster:
        """The cluster with what its manager knows; Conflict, with what to set there, for those left alone."""
        facts = evidence.gather(self.data_directory, self.configuration, self.plain_unit)
        manager = choose.require_supported(self.id, facts)
        if manager is PATRONI:
            reason = manager.recognise(facts) or ""
            return replace(self, patroni=local.member(self.id, reason, os.path.realpath(self.data_directory)))
        if self.plain_unit is None:
            self._require_pg_ctlcluster(facts)
        return replace(self, warnings=tuple(self._left_by_patroni(facts)))

    def _left_by_patroni(self, facts: Evidence) -> Iterator[str]:
        for trace in patroni.traces(facts):
            yield (
                f"{trace.clause}, but unit {facts.unit} started PostgreSQL cluster {self.id}, and no Patroni"
                f" runs for it or would be started at boot, so it was taken as left over; {trace.to_remove}"
            )

    def _require_pg_ctlcluster(self, facts: Evidence) -> None:
        """Conflict where its unit would not start it, or not with the environment of Debian's file."""
        if not Host().runs_systemd():
            return
        starter = facts.unit if facts.unit is not None or facts.postmaster is not None else self.unit
        unit = units.describe(starter or "")
        if unit.starts and os.path.basename(unit.program) != pg_ctlcluster.PROGRAM:
            raise Conflict(
                f"PostgreSQL cluster {self.id} has its configuration in {self.configuration}, but unit"
                f" {unit.name} starts it without pg_ctlcluster ({unit.program}), and would not give it the"
                f" environment there, so nothing was changed; have {self.unit} start it by pg_ctlcluster, as"
                " Debian's unit does (`systemctl cat` shows what a drop-in makes of it), and run this again"
            )
        if starter != self.unit:
            raise Conflict(
                f"postmaster {facts.postmaster} of PostgreSQL cluster {self.id} was not started by"
                f" {self.unit} (it is in {starter or 'no unit'}), so systemd cannot restart it, and nothing"
                f" was changed; stop it (pg_ctlcluster {self.version} {self.name} stop), start it with"
                f" `systemctl start {self.unit}`, and run this again"
            )


class OnHost:
    """Configuration files of this host, with some as they will be."""

    def __init__(self, planned: dict[str, str] | None = None) -> None:
        self._planned = planned or {}

    def content(self, path: str) -> str | None:
        real = os.path.realpath(path)
        planned = next((each for each in (path, real) if each in self._planned), None)
        return files.read_text(real) if planned is None else self._planned[planned]

    def place(self, path: str) -> str:
        return path

    def listed(self, path: str) -> Sequence[str]:
        planned = {os.path.basename(each) for each in self._planned if os.path.dirname(each) == path}
        try:
            return sorted({*os.listdir(path), *planned})
        except OSError:
            return []


def configuration_of(version: str, name: str) -> str:
    return os.path.join(pg_ctlcluster.CONFIGURATION, version, name)


def settings(cluster: Cluster, planned: dict[str, str] | None = None) -> configuration.Settings:
    """What a cluster's files set, with some of them (path -> text) as they will be."""
    return configuration.settings(
        OnHost(planned), cluster.main, cluster.data_directory, started_with(cluster)
    )


def started_with(cluster: Cluster) -> configuration.Settings:
    """What the command line of its last start set; it counts more than any file."""
    path = os.path.join(cluster.data_directory, "postmaster.opts")
    text = evidence.text_of(path, {cluster.uid}, {cluster.gid})
    return configuration.options(configuration.started_with(text)) if text else {}


@dataclass(frozen=True)
class _Known:
    """A cluster that could be meant, by its version and name."""

    version: str
    name: str
    cluster: Cluster | None = None
    """Of a plain unit or of Patroni's; Debian's are examined when they are chosen."""

    @property
    def label(self) -> str:
        return f"{self.version}/{self.name}"


def find(version: str | None, name: str | None) -> Cluster:
    """The cluster of a version and a name; without them the only one there is.

    Of a plain unit the name is the unit's, without ".service", of Patroni's its scope. Unavailable on a
    host that has none; Conflict, with a list, if several clusters could be meant, or if others manage what
    runs.
    """
    debian = [_Known(*each) for each in _debian()]
    others = _others({configured_data_directory(each.version, each.name) for each in debian})
    every = [*debian, *(_Known(each.version, each.name, each) for each in map(_elsewhere, others) if each)]
    if not every:
        for other in others:
            _refuse(other)
        raise Unavailable(
            f"no PostgreSQL cluster was found in {pg_ctlcluster.CONFIGURATION}/VERSION/NAME, and no systemd"
            " unit starts one; create a cluster with pg_createcluster, or start the server"
        )
    meant = [each for each in every if version in (None, each.version) and name in (None, each.name)]
    listed = ", ".join(each.label for each in every)
    if not meant:
        asked = f"{version or '*'}/{name or '*'}"
        raise Unavailable(
            f"there is no PostgreSQL cluster {asked} on this host, which has {listed}; choose one of them"
        )
    if len(meant) > 1:
        raise Conflict(
            f"this host has {len(every)} PostgreSQL clusters ({listed}) and more than one could be meant;"
            " set version and cluster (mshare_postgresql_version, mshare_postgresql_cluster)"
        )
    return meant[0].cluster or _cluster(meant[0].version, meant[0].name)


def at(data_directory: str) -> Cluster:
    """The cluster whose data is in a directory; Unavailable where none is, Conflict for one of others."""
    wanted = os.path.realpath(data_directory)
    debian = {os.path.realpath(configured_data_directory(*each)): each for each in _debian()}
    if wanted in debian:
        return _cluster(*debian[wanted])
    for other in _others(set(debian)):
        if os.path.realpath(other.data_directory) == wanted:
            cluster = _elsewhere(other)
            if cluster is not None:
                return cluster
            _refuse(other)
    raise Unavailable(
        f"no PostgreSQL cluster with the data directory {data_directory} was found on this host; start the"
        " one that is meant"
    )


def every() -> Iterator[Cluster]:
    """The clusters of Debian and of units that start PostgreSQL, whether they run or not."""
    known = {configured_data_directory(*each): each for each in _debian()}
    yield from (_cluster(*each) for data, each in known.items() if os.path.isdir(data))
    yield from (cluster for other in _others(set(known)) for cluster in [_elsewhere(other)] if cluster)


def _debian() -> list[tuple[str, str]]:
    paths = sorted(glob(os.path.join(pg_ctlcluster.CONFIGURATION, "*", "*", "postgresql.conf")))
    return [(path.split("/")[-3], path.split("/")[-2]) for path in paths]


def configured_data_directory(version: str, name: str) -> str:
    """Where a cluster of Debian's has its data, by its postgresql.conf."""
    main = os.path.join(configuration_of(version, name), "postgresql.conf")
    read = configuration.settings(OnHost(), main, "", {})
    return read.get("data_directory", (f"/var/lib/postgresql/{version}/{name}", ""))[0]


def _others(known: set[str]) -> list[Evidence]:
    """What runs, or is started by a unit, and is none of Debian's clusters."""
    places = {os.path.realpath(path) for path in known}
    postmasters = evidence.postmasters()
    servers = [evidence.of_process(pid, None, postmasters) for pid, __ in postmasters]
    running = {each.data_directory for each in servers}
    stopped = [_stopped(unit) for unit in units.of_postgresql() if unit.data_directory is not None]
    stopped = [each for each in stopped if each.data_directory not in running]
    # Patroni's are its own while it does not run them, too.
    seen = running | {each.data_directory for each in stopped}
    stopped += [Evidence(place, place) for place in sorted(patroni.configured().keys() - seen)]
    return [each for each in (*servers, *stopped) if each.apart or each.data_directory not in places]


def _stopped(unit: units.Unit) -> Evidence:
    """Where -D names a configuration, that says where the data is."""
    seen = evidence.stopped(unit.data_directory or "", unit)
    if os.path.exists(os.path.join(seen.data_directory, "PG_VERSION")):
        return seen
    with suppress(OSError, files.NotTrusted):
        place = configuration.settings(OnHost(), seen.main, "", {}).get("data_directory")
        if place is not None:
            return replace(seen, data_directory=os.path.realpath(place[0]))
    return seen


def _refuse(other: Evidence) -> None:
    """Conflict for what is no cluster that could be moved, and has a manager that may be named."""
    label = other.data_directory or f"of process {other.postmaster}"
    if choose.require_supported(label, other) is PATRONI:
        local.member(label, PATRONI.recognise(other) or "", os.path.realpath(other.data_directory))
        raise Conflict(
            f"PostgreSQL cluster {label} is managed by Patroni, which has not made it yet (no PG_VERSION), so"
            " nothing was changed; wait until `patronictl list` shows this member as running"
        )


def _elsewhere(server: Evidence) -> Cluster | None:
    """The cluster of a unit that starts PostgreSQL itself, or of Patroni's; None for everybody else's."""
    manager, __ = choose.manager_of(server)
    if manager is PATRONI:
        # Of a server that does not run, it may be the unit that starts it, and Patroni's files left over.
        starter = server.unit_described
        own = starter.name.rpartition(".")[0] if starter.starts_postgresql else "patroni"
        name, unit = patroni.configured().get(os.path.realpath(server.data_directory), own), None
    elif manager is SYSTEMD_UNIT and server.unit is not None:
        name, unit = server.unit.rpartition(".")[0], server.unit
    else:
        return None
    path = os.path.join(server.data_directory, "PG_VERSION")
    version = evidence.text_for(path, server.data_directory).strip()
    if not _VERSION.match(version):
        return None
    owner = os.stat(server.data_directory)
    return Cluster(
        version,
        name,
        server.data_directory,
        owner.st_uid,
        owner.st_gid,
        server.configuration,
        server.programs,
        unit,
        main_name=os.path.basename(server.main) or "postgresql.conf",
    )


def _cluster(version: str, name: str) -> Cluster:
    data = configured_data_directory(version, name)
    try:
        owner = os.stat(data)
    except OSError as error:
        raise Unavailable(
            f"the data directory {data} of PostgreSQL cluster {version}/{name} cannot be read"
            f" ({error.strerror}); run as root (become: true), or see data_directory in its postgresql.conf"
        ) from None
    programs = os.path.join(PROGRAMS, version, "bin")
    return Cluster(version, name, data, owner.st_uid, owner.st_gid, configuration_of(version, name), programs)
