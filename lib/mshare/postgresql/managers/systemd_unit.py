# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain systemd unit that starts PostgreSQL itself: PGDG's packages on EL, and units written by hand."""

from __future__ import annotations

from .evidence import Evidence
from .manager import Manager


def recognise(evidence: Evidence) -> str | None:
    if evidence.unit is None or not evidence.unit_described.starts_postgresql:
        return None
    if evidence.postmaster is None:
        return f"unit {evidence.unit} starts it"
    return evidence.in_unit()


def _is_transient(evidence: Evidence) -> str | None:
    return evidence.in_unit() if evidence.transient else None


TRANSIENT = Manager(
    "systemd-run",
    _is_transient,
    "its unit is gone once it has stopped: have a unit file start it, or set LD_PRELOAD and"
    " MSHARE_PRELOAD_PAGES with systemd-run --setenv=",
)
SYSTEMD_UNIT = Manager("a systemd unit", recognise, None)
