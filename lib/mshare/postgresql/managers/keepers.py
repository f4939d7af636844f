# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that start and restart PostgreSQL themselves, or that fail over when somebody else restarts it:
cluster managers, operators, supervisors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob

from ...host import procfs
from . import pg_ctlcluster
from .evidence import Ancestor, Evidence, apart, text_for, text_of
from .manager import Manager

_PRIMITIVE = re.compile(r"<primitive\b([^>]*?)(?:/>|>(.*?)</primitive>)", re.S)
_ATTRIBUTE = re.compile(r"""(\w+)=["']([^"']*)["']""")
_AGENT_DATA = re.compile(r"""name=["'](?:pgdata|datadir)["']""")
# Of ocf:heartbeat:pgsql and of PAF's pgsqlms.
_AGENT_DEFAULT = "/var/lib/pgsql/data"
_MONIT_CHECK = re.compile(r"^[ \t]*check\s+process\b.*?(?=^[ \t]*check\s|\Z)", re.S | re.M | re.I)
_MONIT_START = re.compile(r"^[ \t]*start\b", re.M | re.I)
# A whole one: behind a blank, a quote or a sign, up to the next.
_PATH = re.compile(r"""(?<![\w./-])/[^\s'"<>=;,#]+""")


@dataclass(frozen=True)
class _Keeper:
    """A program known by its process above the postmaster, by the unit that the postmaster is in, or by what
    it has written; the last also while PostgreSQL does not run."""

    name: str
    programs: tuple[str, ...]
    unit: str | None
    """A pattern for the unit's name."""
    advice: str
    leaves: tuple[str, ...] = ()
    """Files of its own, relative to the data directory."""
    configurations: tuple[str, ...] = ()
    """Its files on this host, as patterns; they name the directories of its clusters."""
    drop_in: str | None = None
    """What its drop-in for the units that it starts is called."""
    resources: Callable[[Evidence, str], str | None] = lambda evidence, text: None
    """A clause for a resource in one of its files that is the cluster, though the file does not name its
    directory."""

    def recognise(self, evidence: Evidence) -> str | None:
        for process in evidence.parents:
            if any(program in self.programs for program in process.programs):
                return evidence.started_by(process)
        if self.unit is not None and evidence.unit is not None and re.match(self.unit, evidence.unit):
            return evidence.in_unit()
        for name in self.leaves:
            path = os.path.normpath(os.path.join(os.path.realpath(evidence.data_directory), name))
            if os.path.lexists(path):
                return f"{path} is its own; remove it if {self.name} no longer runs this cluster"
        for path in evidence.drop_ins:
            if os.path.basename(path) == self.drop_in:
                return f"{path} is its own, for a unit that it starts"
        for path in (path for pattern in self.configurations for path in sorted(glob(pattern))):
            resource = self.resources(evidence, _text(path))
            if resource is not None:
                return f"{path} has {resource}"
        return _named(self.configurations, evidence)


def _pacemaker_resource(evidence: Evidence, cib: str) -> str | None:
    """A resource of class systemd is a unit; the agents for PostgreSQL have a data directory by default."""
    units = {evidence.unit or "", *pg_ctlcluster.units(evidence.configuration)}
    for match in _PRIMITIVE.finditer(cib):
        fields = dict(_ATTRIBUTE.findall(match[1]))
        kind, name = fields.get("class"), fields.get("type", "")
        resource = f"resource {fields.get('id', '')} ({kind}:{name})"
        if kind in ("systemd", "service", "lsb") and f"{name.removesuffix('.service')}.service" in units:
            return resource
        is_agent = kind == "ocf" and name in ("pgsql", "pgsqlms")
        if is_agent and not _AGENT_DATA.search(match[2] or "") and _is(evidence, _AGENT_DEFAULT):
            return resource
    return None


def _is(evidence: Evidence, directory: str) -> bool:
    return os.path.realpath(evidence.data_directory) == os.path.realpath(directory)


def _named(patterns: Iterable[str], evidence: Evidence) -> str | None:
    """A clause for a file that names a cluster's data directory, or that of its configuration."""
    for path in (path for pattern in patterns for path in sorted(glob(pattern))):
        for directory in dict.fromkeys((evidence.data_directory, evidence.configuration)):
            if _names(_text(path), directory):
                return f"{path} names its directory {directory}"
    return None


def _starts(patterns: Iterable[str], evidence: Evidence) -> str | None:
    """A clause for a file by which Monit starts what is behind a cluster's file of its process's number."""
    names = [os.path.join(evidence.data_directory, "postmaster.pid")]
    names += pg_ctlcluster.pid_files(evidence.configuration)
    for path in (path for pattern in patterns for path in sorted(glob(pattern))):
        for check in _MONIT_CHECK.findall(_text(path)):
            name = next((name for name in names if _names(check, name)), None)
            if name is not None and _MONIT_START.search(check):
                return f"{path} has it start what {name} is for"
    return None


def _names(text: str, directory: str) -> bool:
    """Whether a path in a text leads to a directory, by whatever links."""
    place = os.path.realpath(directory)
    return any(os.path.realpath(path) == place for path in dict.fromkeys(_PATH.findall(text)))


def _text(path: str) -> str:
    """Of a file of whoever owns it: its text decides, and is not shown."""
    try:
        owner = os.stat(path)
    except OSError:
        return ""
    return text_of(os.path.realpath(path), {owner.st_uid}, {owner.st_gid})


_KEEPERS = (
    _Keeper(
        "Pacemaker",
        ("pacemakerd", "pacemaker-execd", "lrmd"),
        r"pacemaker\.service",
        "take the resource out of its hands (`pcs resource unmanage`), set huge_pages in PostgreSQL's"
        " configuration, restart it, and have Pacemaker manage it again (`pcs resource manage`)",
        configurations=("/var/lib/pacemaker/cib/cib.xml",),
        drop_in="50-pacemaker.conf",
        resources=_pacemaker_resource,
    ),
    _Keeper(
        "pg_auto_failover",
        ("pg_autoctl",),
        r"pg_?auto_?(ctl|failover).*\.service",
        "set huge_pages in its postgresql.conf or the environment on the unit of pg_autoctl, and restart that"
        " unit between `pg_autoctl enable maintenance` and `pg_autoctl disable maintenance`, standbys first",
        leaves=("postgresql-auto-failover.conf", "postgresql-auto-failover-standby.conf"),
    ),
    _Keeper(
        "Stolon",
        ("stolon-keeper",),
        r"stolon.*\.service",
        "set huge_pages under pgParameters with `stolonctl update --patch`, or the environment on the unit of"
        " stolon-keeper, and restart that unit, standbys first",
        leaves=("../keeperstate",),
    ),
    _Keeper(
        "repmgr",
        ("repmgrd", "repmgr"),
        r"repmgrd?\b.*\.service",
        "set service_start_command in repmgr.conf so that PostgreSQL's own unit starts it, and start it so",
    ),
    _Keeper(
        "supervisord",
        ("supervisord",),
        r"supervisord?\.service",
        "set environment= in its program section, and restart it with supervisorctl",
    ),
    _Keeper(
        "a runit, s6 or daemontools supervisor",
        ("runsv", "s6-supervise", "supervise"),
        None,
        "set the environment in its run script, and restart it there",
    ),
    _Keeper(
        "OpenRC's supervise-daemon",
        ("supervise-daemon",),
        None,
        "set the environment in /etc/conf.d, and restart it with rc-service",
    ),
    _Keeper(
        "hand (pg_ctl in a login or a script)",
        (),
        # What a login is in; without pam_systemd it stays in the unit that let the user in.
        r"(session|run)-.*\.scope|(sshd?|user|(serial-)?getty)(@.*)?\.service"
        r"|(cron(d|ie)?|atd|rc[-.]local)\.service",
        "stop it and have its systemd unit start it, or set LD_PRELOAD and MSHARE_PRELOAD_PAGES where pg_ctl"
        " is called",
    ),
)
_REPMGRD_STATE = "pg_stat/repmgrd_state.txt"
"""Where the extension notes a pause, as NODE:1 (repmgr.c, REPMGRD_STATE_FILE)."""


def _repmgrd_is_paused(evidence: Evidence) -> bool:
    state = text_for(os.path.join(evidence.data_directory, _REPMGRD_STATE), evidence.data_directory)
    return state.partition(":")[2].strip("\0\n ") == "1"


@dataclass(frozen=True)
class _Watcher:
    """A program that starts nothing, and takes a server that is down for one that failed."""

    name: str
    is_it: Callable[[Ancestor], bool]
    """Whether a process is one of its own."""
    configurations: tuple[str, ...]
    """Where its files are, as patterns, if its command line names none; they name the data directory."""
    advice: str
    suffix: str = ".conf"
    """How the name of a file ends that its command line names instead."""
    is_paused: Callable[[Evidence], bool] = lambda evidence: False
    named: Callable[[Iterable[str], Evidence], str | None] = _named
    """A clause for one of its files that is about the cluster."""

    def recognise(self, evidence: Evidence) -> str | None:
        if self.is_paused(evidence):
            return None
        for pid, title in self._running():
            words = title.split()
            files = tuple(word for word in words if word.startswith("/") and word.endswith(self.suffix))
            named = self.named(files or self.configurations, evidence)
            if named is not None:
                return f"{self.name} runs as process {pid}, and {named}"
        return None

    def _running(self) -> Iterator[tuple[int, str]]:
        """Its processes on this host, without those of containers, each with its command line."""
        for pid in procfs.pids():
            process = Ancestor(pid, procfs.command(pid))
            if self.is_it(process) and not {"pid", "root"} & {*apart(pid)}:
                yield pid, process.title


_WATCHERS = (
    _Watcher(
        "repmgrd",
        lambda process: "repmgrd" in process.programs,
        # Where Debian, PGDG and repmgr's own documentation have it.
        ("/etc/repmgr.conf", "/etc/repmgr/*.conf", "/etc/repmgr/*/repmgr.conf"),
        "a restart may look like a failure to it: run `repmgr service pause`, run this again, standbys first,"
        " and `repmgr service unpause` afterwards",
        is_paused=_repmgrd_is_paused,
    ),
    _Watcher(
        "EDB Failover Manager",
        lambda process: process.programs[:1] == ("java",) and "com.enterprisedb.efm." in process.title,
        ("/etc/edb/efm-*/*.properties", "/etc/efm-*/*.properties"),
        "a restart may look like a failure to its agent: stop that on this host (systemctl stop"
        " edb-efm-VERSION), run this again, standbys first, and start the agent afterwards",
        suffix=".properties",
    ),
    _Watcher(
        "Monit",
        lambda process: "monit" in process.programs,
        # Where Debian, EPEL and Monit itself have them.
        (
            *("/etc/monit/monitrc", "/etc/monit/conf.d/*", "/etc/monit/conf-enabled/*"),
            *("/etc/monitrc", "/etc/monit.d/*"),
        ),
        "it would start the server while that is being restarted: stop Monit on this host (systemctl stop"
        " monit), run this again, and start it afterwards",
        # The file that it is given includes the others.
        suffix="\0",
        named=_starts,
    ),
)
KEEPERS = tuple(Manager(each.name, each.recognise, each.advice) for each in (*_KEEPERS, *_WATCHERS))
