# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that start and restart PostgreSQL themselves, or that fail over when somebody else restarts it:
cluster managers, operators, supervisors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob

from ...host import procfs
from .evidence import Ancestor, Evidence, apart, text_for, text_of
from .manager import Manager

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
        return _named(self.configurations, evidence)


def _named(patterns: Iterable[str], evidence: Evidence) -> str | None:
    """A clause for a file that names a cluster's data directory, or that of its configuration."""
    for path in (path for pattern in patterns for path in sorted(glob(pattern))):
        for directory in dict.fromkeys((evidence.data_directory, evidence.configuration)):
            if _names(_text(path), directory):
                return f"{path} names its directory {directory}"
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
        "put the resource into maintenance (`pcs resource unmanage`), set huge_pages in PostgreSQL's"
        " configuration, restart it, and have Pacemaker manage it again",
        configurations=("/var/lib/pacemaker/cib/cib.xml",),
    ),
    _Keeper(
        "pg_auto_failover",
        ("pg_autoctl",),
        r"pg_?auto_?(ctl|failover).*\.service",
        "set huge_pages in its postgresql.conf and the environment on the unit of pg_autoctl, and restart"
        " with pg_autoctl",
        leaves=("postgresql-auto-failover.conf", "postgresql-auto-failover-standby.conf"),
    ),
    _Keeper(
        "Stolon",
        ("stolon-keeper",),
        r"stolon.*\.service",
        "set huge_pages with `stolonctl update --patch` and the environment on the unit of stolon-keeper",
        leaves=("../keeperstate",),
    ),
    _Keeper(
        "repmgr",
        ("repmgrd", "repmgr"),
        r"repmgrd?\b.*\.service",
        "set service_start_command in repmgr.conf so that PostgreSQL's own unit starts it, and start it so",
    ),
    _Keeper(
        "the operator CloudNativePG",
        ("manager",),
        None,
        "set huge_pages in spec.postgresql.parameters and the environment in spec.env of the Cluster",
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
        "hand (pg_ctl in a login or a script)",
        (),
        # What a login is in; without pam_systemd it stays in the unit that let the user in.
        r"(session|run)-.*\.scope|(sshd?|user|(serial-)?getty)(@.*)?\.service|cron(d|ie)?\.service",
        "stop it and have its systemd unit start it, or set LD_PRELOAD and MSHARE_PRELOAD_PAGES where pg_ctl"
        " is called",
    ),
)
_REPMGR_FILES = ("/etc/repmgr.conf", "/etc/repmgr/*.conf", "/etc/repmgr/*/repmgr.conf")
"""Where Debian, PGDG and repmgr's own documentation have it."""
_REPMGRD_STATE = "pg_stat/repmgrd_state.txt"
"""Where the extension notes a pause, as NODE:1 (repmgr.c, REPMGRD_STATE_FILE)."""


def _repmgrd(evidence: Evidence) -> str | None:
    """It takes a server that is down for one that failed; while it is paused, it does nothing."""
    state = text_for(os.path.join(evidence.data_directory, _REPMGRD_STATE), evidence.data_directory)
    if state.partition(":")[2].strip("\0\n ") == "1":
        return None
    for pid, files in _running("repmgrd"):
        named = _named(files or _REPMGR_FILES, evidence)
        if named is not None:
            return f"repmgrd runs as process {pid}, and {named}"
    return None


def _running(program: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The processes of a program on this host, without those of containers, each with the configuration
    files in its command line."""
    for pid in procfs.pids():
        title = procfs.command(pid)
        if program in Ancestor(pid, title).programs and not {"pid", "root"} & {*apart(pid)}:
            yield pid, tuple(word for word in title.split() if re.fullmatch(r"/.*\.conf", word))


REPMGRD = Manager(
    "repmgrd",
    _repmgrd,
    "a restart may look like a failure to it: run `repmgr service pause`, run this again, standbys first, and"
    " `repmgr service unpause` afterwards",
)
KEEPERS = (*(Manager(each.name, each.recognise, each.advice) for each in _KEEPERS), REPMGRD)
