# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the memory of a PostgreSQL cluster's server is, as the module and the command line answer it."""

from __future__ import annotations

from dataclasses import dataclass

from .native import HugePages
from .placement import Segment
from .probe import Cost


@dataclass(frozen=True)
class MemberFacts:
    """A member of a Patroni cluster."""

    scope: str
    member: str
    leads: bool | None
    """None where its REST API does not answer."""
    members: tuple[str, ...] = ()
    """The names of all members of the cluster, this one among them; none where nobody answered."""
    api_url: str | None = None
    """Its REST API, as its cluster's store has it. It tells members apart that have the same name, in
    clusters of the same scope in other stores or namespaces."""
    api_urls: tuple[str | None, ...] = ()
    """The REST APIs of `members`, in the same order."""


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster, and the server that runs on it."""

    version: str
    name: str
    data_directory: str
    running: bool
    pid: int | None
    """Of the postmaster; None if it does not run."""
    port: str | None
    patroni: MemberFacts | None = None
    """The member of a Patroni cluster that it is; None for everybody else's."""


@dataclass(frozen=True)
class Costs:
    """Page tables of connections around a restart; None where nobody measured them."""

    before: Cost | None = None
    after: Cost | None = None


@dataclass(frozen=True)
class PostgresqlFacts:
    """The answer."""

    cluster: ClusterFacts
    restart_required: bool
    restart_reason: str | None
    restarted: bool
    lost: str | None
    """What is no longer as it was when it was last verified."""
    segment: Segment | None
    """Of the postmaster."""
    backend_segment: Segment | None
    huge_pages: HugePages
    """PostgreSQL's own setting."""
    align_only: bool
    """Whether the server starts in small pages, which are to be collapsed afterwards."""
    page_tables: Costs
    summary: tuple[str, ...]
    """The same for people, line by line."""
