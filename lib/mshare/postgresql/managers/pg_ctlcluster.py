# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's pg_ctlcluster: clusters in /etc/postgresql/VERSION/NAME, started by postgresql@VERSION-NAME."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable

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
# How it reads `environment` (PgCommon.pm, read_conf_file): like postgresql.conf, but names keep their case,
# except in a file called *.conf: what such a file sets is no variable that a program knows.
_REST = r"\s*(?:#.*)?\Z"
_INCLUDE = re.compile(rf"\s*include(_dir|_if_exists)?\s*=?\s*'([^']+)'{_REST}", re.I)
_QUOTED = re.compile(rf"\s*([\w.-]+)\s*(?:=|\s)\s*'((?:[^']|''|(?<=\\)')*)'{_REST}", re.ASCII)
_SIMPLE = re.compile(rf"\s*([\w.-]+)\s*(?:=|\s)\s*(-?[^\W_][\w.:/+-]*){_REST}", re.ASCII)
_INCLUDE_DEPTH = 10
_SECONDS = 30
"""It takes half a second. Files that include each other many times keep it busy for ever."""


def environment(text: str, path: str, read: Callable[[str], str]) -> dict[str, str]:
    """The variables that a server gets of a file `environment`: of a text that is or will be at `path`, and
    of what that includes, which `read` has the text of."""
    return _variables(text, path, read, _INCLUDE_DEPTH, {})


def _variables(
    text: str,
    path: str,
    read: Callable[[str], str],
    depth: int,
    known: dict[tuple[str, int], dict[str, str]],
) -> dict[str, str]:
    """`known` has what files are known to set at a depth: each may include all others many times."""
    variables: dict[str, str] = {}
    for line in text.split("\n"):
        include = _INCLUDE.match(line)
        match = _QUOTED.match(line) or _SIMPLE.match(line)
        if include is not None and depth:
            for each in _included(os.path.join(os.path.dirname(path), include[2]), include[1]):
                if (each, depth) not in known:
                    known[each, depth] = _variables(read(each), each, read, depth - 1, known)
                variables.update(known[each, depth])
        elif include is None and match is not None:
            name, value = match.groups()
            value = re.sub(r"\\(.)", r"\1", value).replace("''", "'")
            variables[name.lower() if path.endswith(".conf") else name] = value
    return variables


def escaped(value: str) -> str:
    """A value as it stands between quotes there."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _included(path: str, how: str | None) -> list[str]:
    if (how or "").lower() != "_dir":
        return [path]
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return []
    return [f"{path}/{name}" for name in names if name.endswith(".conf") and not name.startswith(".")]


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
            timeout=_SECONDS,
        )
    except OSError:
        return None
    except subprocess.TimeoutExpired:
        return (
            f"pg_ctlcluster has not read environment and pg_ctl.conf in"
            f" {os.path.join(CONFIGURATION, version, name)} after {_SECONDS} s; they may include each other"
        )
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
