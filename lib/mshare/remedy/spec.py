# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for: which remedy, for which databases, and what may be done for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..collapse.spec import SECONDS
from ..errors import InvalidRequest
from ..postgresql.converge import PROBES
from ..postgresql.spec import NATIVE
from ..preload.settings import LIBRARY

AUTO, COLLAPSE, HUGETLB, THP = "auto", "collapse", "hugetlb", "thp"
REMEDIES = (AUTO, NATIVE, HUGETLB, COLLAPSE, THP)
POOLED = (NATIVE, HUGETLB)
"""Remedies that take pages of the host's pool."""
MINIMUM_PERCENT = 90
"""Of the memory in use, what has to be in huge pages after a collapse; the ends of a segment cannot be."""


@dataclass(frozen=True)
class RemedySpec:
    """What is asked for of a host."""

    remedy: str = AUTO
    instances: tuple[str, ...] = ()
    """By the names of a survey; empty: every PostgreSQL of the host."""
    restart: bool = False
    """Whether servers may be restarted."""
    probes: int = PROBES
    """Connections that measure page tables around a restart."""
    rate_bytes: int | None = None
    """At most so much is collapsed in a second."""
    interval_seconds: float = SECONDS
    """Between two looks of the service that collapses again."""
    spare: int | str = 8
    """What the pool has beyond what is needed: pages, or a size."""
    share_of_ram_max: float = 0.7
    persist: bool = True
    """Whether the pool is set at boot as well."""
    library: str = LIBRARY
    program: tuple[str, ...] = ("/usr/local/bin/mshare",)
    """The command line that is installed on the host."""

    def __post_init__(self) -> None:
        if self.remedy not in REMEDIES:
            raise InvalidRequest(f"remedy {self.remedy!r} is unknown; write one of " + ", ".join(REMEDIES))
        if self.probes < 0:
            raise InvalidRequest(f"probes {self.probes} is negative; use 0 to measure nothing")
