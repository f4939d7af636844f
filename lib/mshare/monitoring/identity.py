# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an instance is called in Prometheus: only what is the same after a restart.

A name in a survey may have a cgroup, a process or a container's id in it, and depends on which others there
are. A label must not: each new value is a new series.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..survey.record import InstanceRecord

_DELETED = " (deleted)"
# run-u12.service and run-r5f0a….scope of systemd-run, app-…@5f0a….service and dbus-:1.2-…@0.service of a
# desktop: systemd, or who asked it, counts or draws them anew at each start.
_PASSING = re.compile(r"run-(?:u?[0-9]+|p[0-9]+-i[0-9]+)\.|app-.*@[0-9a-f]+\.|dbus-:[0-9.]+-|.*[0-9a-f]{32}")
_POD = re.compile(r"(pod [0-9a-f-]+)")


@dataclass(frozen=True)
class Identity:
    """The labels of an instance; a label that says nothing is empty."""

    kind: str
    program: str
    data_directory: str
    sid: str
    unit: str
    container: str
    port: str


def identity(record: InstanceRecord) -> Identity:
    """Who an instance is, over restarts of it and of what surrounds it."""
    executable = record.executable or ""
    if executable.endswith(_DELETED):
        # Its package was upgraded, and it runs on.
        executable = executable[: -len(_DELETED)]
    return Identity(
        kind=record.kind,
        program=os.path.basename(executable),
        data_directory=record.data_directory or "",
        sid=record.sid or "",
        unit=_unit(record.unit),
        container=_container(record),
        port="" if record.port is None else str(record.port),
    )


def _unit(unit: str | None) -> str:
    """A service; not a scope, which is named after a session, a process or a container's id."""
    if unit is None or not unit.endswith(".service") or _PASSING.match(unit):
        return ""
    return unit


def _container(record: InstanceRecord) -> str:
    """A pod by its name, which Kubernetes gives it as host name; others by what their engine calls them.

    The containers of a pod are made anew at each restart, so their own ids are left out.
    """
    if record.container is None:
        return ""
    pod = _POD.match(record.container)
    if pod is None:
        return record.container
    named = record.hostname and record.hostname != os.uname().nodename
    return f"pod {record.hostname}" if named else pod[1]
