# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for: how often a host is surveyed, and where its node exporter reads the metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import InvalidRequest

USER = "mshare-monitoring"
"""Who surveys, with two capabilities and no other rights; units and cron entry have the same name."""
FOLDER = f"/var/lib/{USER}"
METRICS = "mshare.prom"
"""The file in that folder, and the name of the link to it in the directory of the node exporter."""
INTERVAL_SECONDS = 60
_FASTEST_SECONDS, _SLOWEST_SECONDS = 5, 3600
RESIDENT_BELOW_SECONDS = 60
"""From here on a timer starts each survey; below, a service stays and surveys again and again. Among 2,000
processes that takes 0.3 % of a core every 15 s instead of 2.8 % (docs/monitoring.md)."""


@dataclass(frozen=True)
class MonitoringSpec:
    """What is asked for of a host."""

    directory: str | None = None
    """Where the node exporter reads text files; None finds it out from the one that runs."""
    interval_seconds: int = INTERVAL_SECONDS
    program: str = "/usr/local/bin/mshare"
    """The command line that is installed on the host."""

    def __post_init__(self) -> None:
        if not _FASTEST_SECONDS <= self.interval_seconds <= _SLOWEST_SECONDS:
            raise InvalidRequest(
                f"an interval of {self.interval_seconds} s is not possible; use {_FASTEST_SECONDS} to"
                f" {_SLOWEST_SECONDS} seconds"
            )
        for name, path in (("directory", self.directory), ("executable", self.program)):
            if path is None:
                continue
            if not path.startswith("/") or os.path.normpath(path) != path:
                raise InvalidRequest(f"{name} {path!r} is not an absolute path; write it like {FOLDER}")
            # It becomes a word of a unit and of a cron entry.
            if not path.isprintable() or any(letter in path for letter in " %\\\"'$;&|<>()`*?[]#~"):
                raise InvalidRequest(f"{name} {path!r} cannot stand in a unit or a cron entry; rename it")

    @property
    def is_resident(self) -> bool:
        return self.interval_seconds < RESIDENT_BELOW_SECONDS
