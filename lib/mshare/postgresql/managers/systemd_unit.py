# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain systemd unit that starts PostgreSQL itself: PGDG's packages on EL, and units written by hand."""

from __future__ import annotations

import os
import re

from .evidence import Evidence
from .manager import Manager

_STARTERS = ("postgres", "postmaster", "pg_ctl")


def recognise(evidence: Evidence) -> str | None:
    unit = evidence.unit
    if unit is None or not unit.endswith(".service") or not starts_postgresql(evidence.starts):
        return None
    return evidence.in_unit()


def starts_postgresql(command: str) -> bool:
    """Whether a unit's ExecStart, as systemctl shows it, runs PostgreSQL itself."""
    path = re.search(r"\bpath=(\S+)", command)
    return path is not None and os.path.basename(path[1]) in _STARTERS


SYSTEMD_UNIT = Manager(
    "a systemd unit",
    recognise,
    "set the environment in a drop-in of that unit by hand; the role does that for clusters of"
    " pg_ctlcluster only",
)
