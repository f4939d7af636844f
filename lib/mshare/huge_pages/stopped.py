# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases that do not run, and would take huge pages at their start: `auto` counts what runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from ..errors import MshareError, sentence
from ..host.limits import Host
from ..postgresql import clusters, server, sizing
from ..postgresql.clusters import Cluster
from ..survey.record import TAKES_HUGE_PAGES
from ..units import KIB, counted, format_size
from .need import postgresql_bytes

_FIRST_VERSION = (9, 4)
"""The first PostgreSQL with huge pages."""
_ORATABS = ("/etc/oratab", "/var/opt/oracle/oratab")


def warnings(page_bytes: int, default_bytes: int | None, sids: Iterable[str]) -> Iterator[str]:
    """A clause for each database that would take pages of a size at its start; `sids` are those of Oracles
    that run."""
    try:
        for cluster in clusters.every():
            if server.running(cluster) is None:
                yield from _of_cluster(cluster, page_bytes, default_bytes)
    except (MshareError, OSError) as error:
        yield (
            f"PostgreSQL clusters that do not run are not counted, and could not be listed: {sentence(error)}"
        )
    if page_bytes == default_bytes:
        yield from of_oracle(Host(), sids)


def _of_cluster(cluster: Cluster, page_bytes: int, default_bytes: int | None) -> Iterator[str]:
    version = tuple(int(part) for part in cluster.version.split(".") if part.isdigit())
    settings = clusters.settings(cluster)
    setting, source = settings.get("huge_pages", ("try", "PostgreSQL's default"))
    own_bytes = postgresql_bytes(settings.get("huge_page_size", ("0", ""))[0], KIB) or default_bytes
    if (
        version < _FIRST_VERSION
        or setting.lower() not in TAKES_HUGE_PAGES["postgresql"]
        or own_bytes != page_bytes
    ):
        return
    told = f"huge_pages = {setting}, {source}"
    try:
        sizing.require_counting(cluster.version)
        pages = sizing.of_stopped(
            cluster.uid, cluster.server_program, cluster.data_directory, cluster.main, page_bytes
        )
    except sizing.Unanswered as error:
        yield (
            f"PostgreSQL cluster {cluster.id} does not run, so its huge pages are not counted ({told}), and"
            f" how many it needs is not known: {error}; run this again while it runs"
        )
        return
    yield (
        f"PostgreSQL cluster {cluster.id} does not run, so the {counted(pages, 'page')} of"
        f" {format_size(page_bytes)} that it takes at its start are not counted ({told}; configured: postgres"
        f" -C {sizing.PARAMETER}); add them to spare, or run this again while it runs"
    )


def of_oracle(host: Host, sids: Iterable[str]) -> Iterator[str]:
    """Instances of oratab(5) whose home is there, and which do not run."""
    running = set(sids)
    for path in _ORATABS:
        for line in (host.read(path) or "").split("\n"):
            sid, home, *__ = [*line.split("#")[0].strip().split(":"), "", ""]
            # Those of Grid Infrastructure, and agents, which are listed with a *, have no huge pages.
            if not sid[:1].isalpha() or not os.path.isdir(host.path(os.path.join(home, "dbs"))):
                continue
            # Of a cluster database it has the name, and the instances add a number.
            if not any(each == sid or each.rstrip("0123456789_") == sid for each in running):
                yield (
                    f"Oracle instance {sid} ({path}) does not run, so its huge pages are not counted; run"
                    " this again while it runs"
                )
