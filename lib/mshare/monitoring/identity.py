# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an instance is called in Prometheus: only what is the same after a restart.

A name in a survey may have a cgroup, a process or a container's id in it, and depends on which others there
are. A label must not: each new value is a new series.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from ..survey.record import InstanceRecord

_DELETED = " (deleted)"
# run-u12.service and run-r5f0a….scope of systemd-run, app-…@5f0a….service and dbus-:1.2-…@0.service of a
# desktop: systemd, or who asked it, counts or draws them anew at each start.
_PASSING = re.compile(r"run-(?:u?[0-9]+|p[0-9]+-i[0-9]+)\.|app-.*@[0-9a-f]+\.|dbus-:[0-9.]+-|.*[0-9a-f]{32}")
_POD = re.compile(r"(pod [0-9a-f-]+)")
_DRAWN = re.compile(r"container [0-9a-f]{12}")
"""A container that its engine knows by an id, which is drawn anew for one that replaces it."""
_ID = re.compile(r"[0-9a-f]{12}(?:[0-9a-f]{52})?")
_LONGEST = 200
"""Of a label. What a process calls itself and has in its environment can be any length."""


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
    unit = _unit(record.unit)
    return Identity(
        kind=record.kind,
        program=_short(os.path.basename(executable)),
        data_directory=_short(record.data_directory or ""),
        sid=_short(record.sid or ""),
        unit=_short(unit),
        container=_short(_container(record, unit)),
        port="" if record.port is None else str(record.port),
    )


def _short(value: str) -> str:
    """A label of a length that Prometheus stores gladly; long ones still differ if they did."""
    if len(value) <= _LONGEST:
        return value
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    return f"{value[: _LONGEST - 9]}…{digest[:8]}"


def _unit(unit: str | None) -> str:
    """A service; not a scope, which is named after a session, a process or a container's id."""
    if unit is None or not unit.endswith(".service") or _PASSING.match(unit):
        return ""
    return unit


def _container(record: InstanceRecord, unit: str) -> str:
    """A container by what stays the same when it is made anew; its id only where nothing else is known.

    A pod has its name as host name, and its containers are made anew at each restart. Docker and Podman give
    a container its id as host name unless it is given one; then it is known by what its data lies on, or by
    the service that runs it.
    """
    if record.container is None:
        return ""
    named = record.hostname if record.hostname != os.uname().nodename else None
    pod = _POD.match(record.container)
    if pod is not None:
        return f"pod {named}" if named else pod[1]
    if not _DRAWN.fullmatch(record.container):
        return record.container
    if named and not _ID.fullmatch(named):
        return f"container {named}"
    if record.volume:
        return f"volume {record.volume}"
    return "" if unit else record.container
