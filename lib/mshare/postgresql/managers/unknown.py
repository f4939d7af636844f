# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What starts PostgreSQL and is not a manager that this collection knows."""

from __future__ import annotations

from .evidence import Evidence
from .manager import Manager

# They take in processes whose parent has ended, and manage none of them.
_INITS = ("systemd", "init", "(sd-pam)")


def _by_process(evidence: Evidence) -> str | None:
    if not evidence.parents or evidence.parents[0].words[:1] in [(name,) for name in _INITS]:
        return None
    process = evidence.parents[0]
    return evidence.started_by(process)


def _by_namespace(evidence: Evidence) -> str | None:
    """A mount namespace that no unit accounts for: a restart would not come back into it."""
    if "mnt" not in evidence.apart or (evidence.unit or "").endswith(".service"):
        return None
    return f"its postmaster {evidence.postmaster} has a mount namespace of its own, and no systemd unit"


def _by_rest(evidence: Evidence) -> str | None:
    if evidence.postmaster is None:
        return f"nothing on this host shows what starts the cluster in {evidence.data_directory}"
    if evidence.unit is None:
        return f"its postmaster {evidence.postmaster} is in no systemd unit"
    return f"{evidence.in_unit()}, which runs {evidence.starts or 'no program'}"


_NAME = "something that this collection does not know"
_ADVICE = "set huge_pages and the environment where it is started from, or have a systemd unit start it"
BY_PROCESS = Manager(_NAME, _by_process, _ADVICE)
BY_NAMESPACE = Manager(_NAME, _by_namespace, _ADVICE)
REST = Manager(_NAME, _by_rest, _ADVICE)
