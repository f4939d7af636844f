# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that start and restart PostgreSQL themselves: cluster managers, operators, supervisors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .evidence import Evidence
from .manager import Manager


@dataclass(frozen=True)
class _Keeper:
    """A program known by its process above the postmaster, or by the unit that the postmaster is in."""

    name: str
    programs: tuple[str, ...]
    unit: str | None
    """A pattern for the unit's name."""
    advice: str

    def recognise(self, evidence: Evidence) -> str | None:
        for process in evidence.parents:
            # A program itself, or what an interpreter runs: its own options may name anything.
            if any(word.rstrip(":") in self.programs for word in process.words[:3]):
                return evidence.started_by(process)
        if self.unit is not None and evidence.unit is not None and re.match(self.unit, evidence.unit):
            return evidence.in_unit()
        return None


_KEEPERS = (
    _Keeper(
        "Pacemaker",
        ("pacemakerd", "pacemaker-execd", "lrmd"),
        r"pacemaker\.service",
        "put the resource into maintenance (`pcs resource unmanage`), set huge_pages in its configuration"
        " and restart it through Pacemaker",
    ),
    _Keeper(
        "pg_auto_failover",
        ("pg_autoctl",),
        r"pg_?auto(ctl|failover).*\.service",
        "set huge_pages in its postgresql.conf and the environment on the unit of pg_autoctl, and restart"
        " with pg_autoctl",
    ),
    _Keeper(
        "Stolon",
        ("stolon-keeper",),
        r"stolon.*\.service",
        "set huge_pages with `stolonctl update --patch` and the environment on the unit of stolon-keeper",
    ),
    _Keeper(
        "repmgrd",
        ("repmgrd",),
        r"repmgrd?\b.*\.service",
        "set service_start_command in repmgr.conf to start PostgreSQL by its own unit",
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
        "a runit or s6 supervisor",
        ("runsv", "s6-supervise"),
        None,
        "set the environment in its run script, and restart it there",
    ),
)
KEEPERS = tuple(Manager(each.name, each.recognise, each.advice) for each in _KEEPERS)
