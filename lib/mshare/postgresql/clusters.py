# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL clusters of a host: what Debian's postgresql-common lists, and what else runs."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob

from .. import files
from ..errors import Conflict, Unavailable
from . import configuration
from .managers import choose, evidence, pg_ctlcluster
from .managers.evidence import Evidence
from .managers.manager import Manager

COMMON = "/etc/postgresql-common"
PROGRAMS = "/usr/lib/postgresql"
LOGS = "/var/log/postgresql"
CONTROL = "/usr/bin/pg_ctlcluster"


@dataclass(frozen=True)
class Cluster:
    """One cluster: a version, a name, and the folders that go with them."""

    version: str
    name: str
    data_directory: str
    uid: int
    gid: int

    @property
    def id(self) -> str:
        """As systemd's unit and Debian's files have it: 15-main."""
        return f"{self.version}-{self.name}"

    @property
    def unit(self) -> str:
        return f"postgresql@{self.id}.service"

    @property
    def configuration(self) -> str:
        return configuration_of(self.version, self.name)

    @property
    def owner(self) -> str:
        """The name of the user it runs as."""
        return pwd.getpwuid(self.uid).pw_name

    @property
    def log(self) -> str:
        """Where the server writes before it has read where it should."""
        link = os.path.join(self.configuration, "log")
        return os.path.realpath(link) if os.path.islink(link) else f"{LOGS}/postgresql-{self.id}.log"

    def program(self, name: str) -> str:
        return os.path.join(PROGRAMS, self.version, "bin", name)

    def manager(self) -> Manager:
        """Who manages it; Conflict, with what to set there, for one whose clusters are left alone."""
        return choose.require_supported(self.id, evidence.gather(self.data_directory, self.configuration))


class OnHost:
    """Configuration files of this host, with some as they will be."""

    def __init__(self, planned: dict[str, str] | None = None) -> None:
        self._planned = planned or {}

    def content(self, path: str) -> str | None:
        return self._planned[path] if path in self._planned else files.read_text(path)

    def place(self, path: str) -> str:
        return path

    def listed(self, path: str) -> Sequence[str]:
        planned = {os.path.basename(one) for one in self._planned if os.path.dirname(one) == path}
        try:
            return sorted({*os.listdir(path), *planned})
        except OSError:
            return []


def configuration_of(version: str, name: str) -> str:
    return os.path.join(pg_ctlcluster.CONFIGURATION, version, name)


def settings(cluster: Cluster, planned: dict[str, str] | None = None) -> configuration.Settings:
    """What a cluster's files set, with some of them (path -> text) as they will be."""
    main = os.path.join(cluster.configuration, "postgresql.conf")
    return configuration.settings(OnHost(planned), main, cluster.data_directory, {})


def find(version: str | None, name: str | None) -> Cluster:
    """The cluster of a version and a name; without them the only one there is.

    Unavailable on a host that has none; Conflict, with a list, where it is not clear which one is meant.
    """
    every = _every()
    if not every:
        for other in _others():
            choose.require_supported(_label(other), other)
        raise Unavailable(
            f"no PostgreSQL cluster was found in {pg_ctlcluster.CONFIGURATION}/VERSION/NAME, and none runs;"
            " install postgresql from Debian or PGDG, or create one with pg_createcluster"
        )
    meant = [one for one in every if version in (None, one[0]) and name in (None, one[1])]
    listed = ", ".join("/".join(one) for one in every)
    if not meant:
        asked = f"{version or '*'}/{name or '*'}"
        raise Unavailable(
            f"there is no PostgreSQL cluster {asked} on this host, which has {listed}; name one of these"
        )
    if len(meant) > 1:
        raise Conflict(
            f"this host has {len(every)} PostgreSQL clusters ({listed}) and it was not said which one is"
            " meant; set version and cluster (mshare_postgresql_version, mshare_postgresql_cluster)"
        )
    return _cluster(*meant[0])


def _others() -> list[Evidence]:
    """The servers that run and belong to none of Debian's clusters."""
    return [evidence.of_process(pid) for pid, __ in evidence.postmasters()]


def _label(other: Evidence) -> str:
    """What to call a cluster that has no name."""
    return other.data_directory or f"of process {other.postmaster}"


def _every() -> list[tuple[str, str]]:
    paths = sorted(glob(os.path.join(pg_ctlcluster.CONFIGURATION, "*", "*", "postgresql.conf")))
    return [(path.split("/")[-3], path.split("/")[-2]) for path in paths]


def _cluster(version: str, name: str) -> Cluster:
    main = os.path.join(configuration_of(version, name), "postgresql.conf")
    read = configuration.settings(OnHost(), main, "", {})
    data, __ = read.get("data_directory", (f"/var/lib/postgresql/{version}/{name}", ""))
    try:
        owner = os.stat(data)
    except OSError as error:
        raise Unavailable(
            f"the data directory {data} of PostgreSQL cluster {version}/{name} cannot be read"
            f" ({error.strerror}); run as root (become: true), or see data_directory in its postgresql.conf"
        ) from None
    return Cluster(version, name, data, owner.st_uid, owner.st_gid)
