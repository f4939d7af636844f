# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's pg_ctlcluster: clusters in /etc/postgresql/VERSION/NAME, started by postgresql@VERSION-NAME."""

from __future__ import annotations

import os

from .evidence import Evidence
from .manager import Manager

CONFIGURATION = "/etc/postgresql"


def recognise(evidence: Evidence) -> str | None:
    """By the place of its configuration, unless a unit of somebody else's starts it."""
    place, name = os.path.split(evidence.configuration)
    place, version = os.path.split(place)
    if place != CONFIGURATION:
        return None
    # Started by hand, it is in the scope of a session, or in no unit at all.
    own_unit = f"postgresql@{version}-{name}.service"
    if evidence.unit in (None, own_unit) or not evidence.starts:
        return f"its configuration is {evidence.configuration}"
    return None


PG_CTLCLUSTER = Manager("pg_ctlcluster", recognise, None)
