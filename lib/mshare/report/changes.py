# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What grew since an earlier report: hosts and instances of both, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .. import record
from .fleet import Fleet, Host


@dataclass(frozen=True)
class Change:
    """Page tables of a host, or of one of its instances, then and now."""

    host: str
    instance: str | None
    """None for the whole host."""
    since: str | None
    """When the earlier survey was made (UTC, ISO 8601); None where it has nothing of this."""
    before_bytes: int | None
    """None for what was not there."""
    now_bytes: int | None
    """None for what is there no more."""

    @property
    def grown_bytes(self) -> int:
        return (self.now_bytes or 0) - (self.before_bytes or 0)

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {**vars(self), "grown_bytes": self.grown_bytes}


@dataclass(frozen=True)
class Comparison:
    """Two reports of a fleet."""

    earlier: str
    """The file of the earlier report."""
    hosts: tuple[Change, ...]
    """What grew most comes first, as among the instances. A host that is missing in either is left out."""
    instances: tuple[Change, ...]
    gone: tuple[str, ...] = ()
    """The hosts that the earlier report has a survey of, and the new one has not."""

    @property
    def since(self) -> str | None:
        """When the first survey of the earlier report was made."""
        return min((change.since for change in self.hosts if change.since), default=None)

    @property
    def grown_bytes(self) -> int:
        return sum(change.grown_bytes for change in self.hosts)

    def to_fields(self) -> dict[str, object]:
        """As JSON has it."""
        fields = {name: record.plain(value) for name, value in vars(self).items()}
        return {**fields, "since": self.since, "grown_bytes": self.grown_bytes}


def compare(earlier: Fleet, now: Fleet, source: str) -> Comparison:
    """`source` names the earlier report."""
    olds = {host.name: host for host in earlier.hosts}
    pairs = [(olds[host.name], host) for host in now.hosts if host.name in olds]
    hosts = [
        Change(host.name, None, old.surveyed_at, old.page_tables_bytes, host.page_tables_bytes)
        for old, host in pairs
    ]
    instances = [change for old, host in pairs for change in _instances(old, host)]
    gone = sorted(olds.keys() - {host.name for host in now.hosts})
    return Comparison(source, _most_grown(hosts), _most_grown(instances), tuple(gone))


def _instances(old: Host, host: Host) -> Iterator[Change]:
    before, now = _bytes(old), _bytes(host)
    for name in sorted({*before, *now}):
        yield Change(host.name, name, old.surveyed_at, before.get(name), now.get(name))


def _bytes(host: Host) -> Mapping[str, int]:
    return {instance.name: instance.page_tables_bytes for instance in host.instances}


def _most_grown(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(
        sorted(changes, key=lambda change: (-change.grown_bytes, change.host, change.instance or ""))
    )
