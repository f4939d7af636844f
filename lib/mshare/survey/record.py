# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a survey answers, as records; docs/reference/survey.schema.json is their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .. import record
from ..errors import InvalidRequest
from ..host.huge_pages import Pool
from ..host.processes import Missing

SCHEMA_VERSION = 2
OPCACHE_KINDS = ("php-fpm", "php")
"""Programs whose OPcache takes huge pages by itself, wherever there are any."""
TAKES_HUGE_PAGES: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("on", "true", "yes", "1", "try"),
    "oracle": ("true", "only", "auto", "auto_only"),
}
"""The settings huge_pages and use_large_pages with which a database takes pages of the pool at its start."""
_NEXT_STEP = "make a new one with `mshare survey --json`"


@dataclass(frozen=True)
class TransparentHugePages:
    """The chosen word of each setting; None where this kernel has no such setting."""

    anonymous: str | None
    shmem: str | None


@dataclass(frozen=True)
class Support:
    """Whether mshare can be used on the host, and how."""

    supported: bool
    kernel_supported: bool
    """Whether the kernel itself has msharefs."""
    backend: str | None
    root: str | None
    mounted: bool
    generation: str | None
    """Which posted series the kernel carries; None without one, or before msharefs is mounted."""
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class HostFacts:
    """What page tables are paid from."""

    name: str
    kernel: str
    boot_id: str | None
    """The same on containers of one machine: they have one PageTables, counted once."""
    page_tables_bytes: int
    memory_total_bytes: int
    memory_available_bytes: int
    huge_page_default_bytes: int | None
    """The size that vm.nr_hugepages counts in; None on a kernel without huge pages."""
    huge_page_pools: tuple[Pool, ...]
    thp: TransparentHugePages
    overcommit_memory: str | None
    hidepid: str | None
    mshare: Support
    pagemap_scan: bool


@dataclass(frozen=True)
class Method:
    """How the survey was made."""

    exact: bool
    threshold_bytes: int
    samples_per_group: int | None
    duration_ms: float
    uid: int


@dataclass(frozen=True)
class Maximum:
    """How many processes an instance is configured for, and where that is configured."""

    value: int
    source: str


@dataclass(frozen=True)
class Limit:
    """A cgroup's limit that applies to an instance."""

    resource: str
    """"memory", or "hugetlb 2MB" as the controller names its sizes."""
    file: str
    limit_bytes: int
    available_bytes: int | None = None
    """Of memory: what the cgroup can still take, without the page cache that it can give back; None where its
    use cannot be read, and for other resources."""


@dataclass(frozen=True)
class Range:
    """Addresses at which a segment is mapped; gaps that skip no whole 2 MiB are left out."""

    start: int
    size_bytes: int


@dataclass(frozen=True)
class SegmentRecord:
    """Shared memory of an instance."""

    kind: str
    name: str
    region: str | None
    key: int | None
    size_bytes: int
    page_bytes: int
    address: int
    ranges: tuple[Range, ...]
    congruent_2mib: bool
    aligned_1gib: bool
    huge_bytes: int
    page_tables_bytes: int | None
    """Over all processes that map it; None where the kernel does not tell whose they are (msharefs)."""
    processes: int
    short_lived: bool
    """Mapped by some processes and not by their common parent, like the memory of a parallel query."""


@dataclass(frozen=True)
class Tables:
    """Page tables of an instance's processes."""

    sum_bytes: int
    average_bytes: int
    maximum_bytes: int
    segments_bytes: int | None
    remainder_bytes: int | None
    kind: Literal["measured"]
    """Of the sum: VmPTE is always measured."""
    segments_kind: Literal["measured", "modelled"]
    """Of the segments' part: measured where every process was scanned, else modelled from samples."""


@dataclass(frozen=True)
class InstanceRecord:
    """A database server, or another program whose processes share memory."""

    name: str
    kind: str
    executable: str | None
    unit: str | None
    cgroup: str | None
    container: str | None
    manager: str | None
    """What writes its configuration, where that is not an administrator: patroni, kubernetes, container."""
    data_directory: str | None
    port: int | None
    version: str | None
    sid: str | None
    processes: int
    helpers: int
    """Processes that the maximum does not count: background processes and parallel workers."""
    pids: tuple[int, ...]
    threads: int
    setuid: bool
    processes_maximum: Maximum | None
    segments: tuple[SegmentRecord, ...]
    page_tables: Tables
    share_of_host_percent: float
    huge_pages_requested: str | None
    settings: dict[str, str]
    """Of a database: settings that decide which remedies it can follow, as far as they are written down."""
    preload: str | None
    thp_disabled: bool
    limits: tuple[Limit, ...]
    preload_mapped: bool | None = None
    """Where the preloaded library is asked for: whether its leader has it; None where that is not known."""
    hostname: str | None = None
    """The host name that its container was given; None outside containers."""
    volume: str | None = None
    """The named volume, directory or device that its container has its data directory on; None outside
    containers, and for what ends with the container."""


@dataclass(frozen=True)
class Others:
    """Processes that belong to no instance."""

    processes: int
    page_tables_bytes: int


@dataclass(frozen=True)
class Survey:
    """What page tables cost on one host at one moment."""

    schema_version: int
    created_at: str
    """UTC, ISO 8601."""
    host: HostFacts
    method: Method
    complete: bool
    missing: tuple[Missing, ...]
    vanished: int
    """Processes that ended while they were read."""
    instances: tuple[InstanceRecord, ...]
    others: Others

    def to_dict(self) -> dict[str, object]:
        """As JSON has it."""
        return record.to_fields(self)


def full_names(survey: Survey, names: Iterable[str]) -> tuple[str, ...]:
    """The names of instances, each given in full or, if only one is meant, without the place in brackets:
    "postgresql 5432" for "postgresql 5432 (postgresql@17-main)". InvalidRequest for another one."""
    known = [instance.name for instance in survey.instances]
    found = []
    for name in names:
        meant = [each for each in known if each == name] or [
            each for each in known if each.startswith(f"{name} (")
        ]
        if len(meant) != 1:
            raise InvalidRequest(
                f"instance {name!r} is {'more than one' if meant else 'not'} on this host; its instances are"
                f" {', '.join(sorted(known)) or 'none'}"
            )
        found += meant
    return tuple(found)


def from_fields(value: object, source: str = "the survey") -> Survey:
    """A survey from decoded JSON; `source` names the file or host it came from.

    Raises InvalidRequest for another schema version, and for a field that is missing or of another type.
    """
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    if version != SCHEMA_VERSION:
        raise InvalidRequest(
            f"{source} is not a survey of this release: its schema_version is {version!r} and must be"
            f" {SCHEMA_VERSION}; {_NEXT_STEP}"
        )
    try:
        return record.build(Survey, value, record.Place(source, _NEXT_STEP))
    except record.Malformed as error:
        raise InvalidRequest(str(error)) from error
