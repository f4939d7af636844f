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


def _is_of_user(evidence: Evidence) -> str | None:
    if evidence.of_user is None:
        return None
    return f"its postmaster {evidence.postmaster} is in {evidence.of_user}"


def _is_shared(evidence: Evidence) -> str | None:
    """A restart of the unit would be one of all its servers."""
    if not evidence.beside:
        return None
    return f"{evidence.in_unit()}, as is the server in {evidence.beside[0]}"


def _is_of_another(evidence: Evidence) -> str | None:
    """Something inside the unit of another cluster has started it, and systemd would not start it again."""
    if evidence.unit_is_for is None:
        return None
    return f"{evidence.in_unit()}, which is for the cluster in {evidence.unit_is_for}"


def _is_transient(evidence: Evidence) -> str | None:
    return evidence.in_unit() if evidence.transient else None


USERS = Manager(
    "a user's own systemd (systemctl --user)",
    _is_of_user,
    "have a unit of the host's systemd start it, or set LD_PRELOAD and MSHARE_PRELOAD_PAGES there"
    " (systemctl --user edit UNIT), and restart it there",
)
SHARED = Manager(
    "a unit of several servers",
    _is_shared,
    "restarting it would end the others' connections as well: have a unit of its own start each server",
)
OF_ANOTHER = Manager(
    "the unit of another cluster",
    _is_of_another,
    "stop it, have a unit of its own start it, and run this again",
)
TRANSIENT = Manager(
    "systemd-run",
    _is_transient,
    "its unit is gone once it has stopped: have a unit file start it, or set LD_PRELOAD and"
    " MSHARE_PRELOAD_PAGES with systemd-run --setenv=",
)
SYSTEMD_UNIT = Manager("a systemd unit", recognise, None)
