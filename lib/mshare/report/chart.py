# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chart of page tables by host and instance, as data: the page draws the bars in HTML and CSS."""

from __future__ import annotations

from dataclasses import dataclass

from .fleet import Fleet, Host

MOST_HOSTS = 20
RANKS = ("largest instance", "second", "third", "further instances", "in no instance")
"""What the shades of a bar stand for, from the left."""
_NAMED = 3


@dataclass(frozen=True)
class Part:
    """A piece of a bar."""

    rank: int
    """Its place in RANKS."""
    name: str
    size_bytes: int
    width_percent: float
    """Of the longest bar in the chart."""


@dataclass(frozen=True)
class Bar:
    """One host's page tables."""

    host: str
    size_bytes: int
    parts: tuple[Part, ...]


def bars(fleet: Fleet) -> list[Bar]:
    """A bar for each of the hosts with most page tables."""
    hosts = fleet.hosts[:MOST_HOSTS]
    pieces = [_pieces(host) for host in hosts]
    longest_bytes = max((sum(size for __, size in each) for each in pieces), default=0) or 1
    return [
        Bar(
            host.name,
            host.page_tables_bytes,
            tuple(
                Part(rank, name, size_bytes, 100 * size_bytes / longest_bytes)
                for rank, (name, size_bytes) in enumerate(each)
                if size_bytes
            ),
        )
        for host, each in zip(hosts, pieces)
    ]


def _pieces(host: Host) -> list[tuple[str, int]]:
    """Name and bytes for each of RANKS."""
    named = [(instance.name, instance.page_tables_bytes) for instance in host.instances[:_NAMED]]
    named += [("", 0)] * (_NAMED - len(named))
    further = host.instances[_NAMED:]
    further_bytes = sum(instance.page_tables_bytes for instance in further)
    return [*named, (f"{len(further)} more", further_bytes), (RANKS[-1], host.outside_bytes)]
