# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which manager a cluster has, and refusing those whose clusters are left alone."""

from __future__ import annotations

from ...errors import Conflict
from . import unknown
from .containers import CONTAINERS
from .evidence import Evidence
from .keepers import KEEPERS
from .manager import Manager
from .patroni import PATRONI
from .pg_ctlcluster import PG_CTLCLUSTER
from .systemd_unit import OF_ANOTHER, SHARED, SYSTEMD_UNIT, TRANSIENT, USERS

# The first that recognises a cluster is its manager: from the outside to the inside.
MANAGERS: tuple[Manager, ...] = (
    *CONTAINERS,
    PATRONI,
    *KEEPERS,
    USERS,
    unknown.BY_PROCESS,
    unknown.BY_NAMESPACE,
    TRANSIENT,
    SHARED,
    OF_ANOTHER,
    PG_CTLCLUSTER,
    SYSTEMD_UNIT,
    unknown.REST,
)


def manager_of(evidence: Evidence) -> tuple[Manager, str]:
    """The manager of a cluster, and the clause that says by what it was recognised."""
    for manager in MANAGERS:
        reason = manager.recognise(evidence)
        if reason is not None:
            return manager, reason
    raise AssertionError("the last manager recognises everything")


def require_supported(cluster: str, evidence: Evidence) -> Manager:
    """The manager; Conflict for a manager whose clusters are left alone."""
    manager, reason = manager_of(evidence)
    if manager.advice is not None:
        raise Conflict(
            f"PostgreSQL cluster {cluster} is managed by {manager.name} ({reason}), so nothing was changed;"
            f" {manager.advice}"
        )
    return manager
