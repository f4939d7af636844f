# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's pg_ctlcluster: clusters in /etc/postgresql/VERSION/NAME, started by postgresql@VERSION-NAME."""

from __future__ import annotations

import os
import subprocess

from .evidence import Evidence
from .manager import Manager

CONFIGURATION = "/etc/postgresql"
PROGRAM = "pg_ctlcluster"
# What pg_ctlcluster does before it starts a server, by its own code: it reads these files, and takes no line
# that it does not understand.
_READ = """
use PgCommon;
my ($version, $name) = @ARGV;
my %info = cluster_info($version, $name);
for my $file (qw(environment pg_ctl.conf)) { PgCommon::read_cluster_conf_file($version, $name, $file) }
print $info{start};
"""


def _parts(configuration: str) -> tuple[str, str] | None:
    """Version and name; None for a configuration that is none of Debian's."""
    place, name = os.path.split(configuration)
    place, version = os.path.split(place)
    return (version, name) if place == CONFIGURATION else None


def units(configuration: str) -> tuple[str, ...]:
    """The units that start a cluster: its own, and the one for all."""
    parts = _parts(configuration)
    return () if parts is None else ("postgresql@{}-{}.service".format(*parts), "postgresql.service")


def pid_files(configuration: str) -> tuple[str, ...]:
    """Its external_pid_file, as pg_createcluster has it."""
    parts = _parts(configuration)
    return () if parts is None else ("/run/postgresql/{}-{}.pid".format(*parts),)


def problem(version: str, name: str) -> str | None:
    """Why pg_ctlcluster would not start a cluster: a part of a sentence; None where it would, or where it
    cannot be asked."""
    try:
        asked = subprocess.run(
            ["perl", "-e", _READ, version, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return None
    if asked.stdout == "disabled":
        return f"start.conf in {os.path.join(CONFIGURATION, version, name)} is disabled"
    error = next((line for line in asked.stderr.split("\n") if line.startswith("Error: ")), None)
    return None if error is None else f"pg_ctlcluster says: {error}"


def recognise(evidence: Evidence) -> str | None:
    """By the place of its configuration, unless a unit of somebody else's starts it."""
    own = units(evidence.configuration)
    if not own:
        return None
    # Started by hand, it is in the scope of a session, or in no unit at all.
    if evidence.unit in (None, own[0]) or not evidence.starts:
        return f"its configuration is {evidence.configuration}"
    return None


PG_CTLCLUSTER = Manager("pg_ctlcluster", recognise, None)
