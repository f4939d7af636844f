# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host, as commands with `--json` and modules answer it. None is what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .. import record
from ..backends.mapping import MappingEntry
from ..clients.status import DeadClient, Kind
from ..errors import Failure
from ..kernel.generations import Status


@dataclass(frozen=True)
class DirectoryFacts:
    """A directory of regions."""

    name: str
    mode: str | None = None
    """Four octal digits."""
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True)
class MountFacts:
    """One msharefs."""

    root: str
    backend: str | None = None
    generation: str | None = None
    features: Mapping[str, object] | None = None
    """Of the generation, by name."""
    mode: str | None = None
    """Four octal digits."""
    uid: int | None = None
    gid: int | None = None
    alignment_bytes: int | None = None
    directories: tuple[DirectoryFacts, ...] = ()
    """As far as this user may read them."""
    reason: str | None = None
    """Why something is not known."""


@dataclass(frozen=True)
class ClientsFacts:
    """The clients of a region as their launcher reports them, checked against /proc."""

    region: str
    state: str
    """The launcher's; "unknown" where another version of the library wrote it, "unreadable" where it is
    damaged."""
    launcher_pid: int | None
    launcher_alive: bool
    version: str | None
    requested: int | None
    attached: int | None
    dead: tuple[DeadClient, ...]
    errors: tuple[str, ...]
    root: str
    error: Failure | None = None
    backend: str | None = None
    generation: str | None = None
    reloads: int | None = None
    owner_alive: bool | None = None
    window_bytes: int | None = None
    mapped_bytes: int | None = None
    span_bytes: int | None = None
    span_fitted: bool | None = None
    stride_bytes: int | None = None
    attach_ms_median: float | None = None
    attach_ms_max: float | None = None
    vm_pte_before_bytes_sum: int | None = None
    vm_pte_after_bytes_sum: int | None = None
    host_page_tables_before_bytes: int | None = None
    host_page_tables_after_bytes: int | None = None
    client_kind: Kind | None = None
    client_kind_reason: str | None = None


@dataclass(frozen=True)
class OwnerFacts:
    """A region's owner."""

    pid: int | None
    alive: bool
    state: str | None
    """What the owner says; "gone" if it ended, "unmanaged" for a process that is not ours, "unknown"
    and "unreadable" as in ClientsFacts."""
    error: str | None
    version: str | None
    oom_score_adjust: int | None


@dataclass(frozen=True)
class RegionFacts:
    """One region: file, owner, geometry, mappings, clients."""

    name: str
    root: str
    path: str
    mode: str | None
    """Four octal digits."""
    uid: int | None
    gid: int | None
    exists: bool
    window_bytes: int | None
    mapped_bytes: int | None
    address: int | None
    """Where every process must attach; None where each may choose."""
    mappings: tuple[MappingEntry, ...] | None
    owner: OwnerFacts
    health: str
    """ "healthy", or one word for what is wrong."""
    clients: ClientsFacts | None
    reason: str | None = None
    """Why it is unreadable or unknown."""
    source: str | None = None
    """Who knew the health: "root" (the kernel or the simulator, asked just now), "status file" (what the
    owner wrote down, and whether that process lives), "file" (its absence); None where nobody did."""


@dataclass(frozen=True)
class MemoryFacts:
    """The host's memory and page tables, measured."""

    total_bytes: int | None
    available_bytes: int | None
    page_tables_bytes: int | None


@dataclass(frozen=True)
class Support:
    """Whether mshare can be used here, which backend that would be, and why or why not."""

    supported: bool
    kernel_supported: bool
    backend: str | None
    root: str | None
    mounted: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GenerationFacts:
    """An interface of the kernel that the library knows, whatever this host has."""

    id: str
    status: Status
    """Only of a posted one there may be a kernel."""
    origin: str
    features: Mapping[str, object]
    """By name."""


@dataclass(frozen=True)
class HostFacts:
    """Everything."""

    support: Support
    mounts: tuple[MountFacts, ...]
    regions: tuple[RegionFacts, ...]
    memory: MemoryFacts
    generations: tuple[GenerationFacts, ...]

    def to_fields(self) -> dict[str, object]:
        """The answer to "is it supported" comes first, beside what there is."""
        return {
            **record.to_fields(self.support),
            "mounts": [record.to_fields(mount) for mount in self.mounts],
            "regions": [record.to_fields(region) for region in self.regions],
            "memory": record.to_fields(self.memory),
            "generations": [record.to_fields(generation) for generation in self.generations],
        }
