# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures that alerts need, of one host at one moment: one record for metrics, modules and `--json`.

What the fields mean is in `metrics`; a metric has the name of its field. None is what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostFigures:
    """The host's memory, and what its page tables take of it."""

    memory_bytes: int
    memory_available_bytes: int
    page_tables_bytes: int
    page_tables_ratio: float
    page_tables_maximum_bytes: int
    others_page_tables_bytes: int
    will_run_out: bool


@dataclass(frozen=True)
class PoolFigures:
    """The host's pool of huge pages of one size."""

    page_size: str
    size_bytes: int
    free_bytes: int
    reserved_bytes: int
    available_bytes: int
    wanted_bytes: int
    unused: bool


@dataclass(frozen=True)
class InstanceFigures:
    """A database server, or another program whose processes share memory."""

    kind: str
    program: str
    data_directory: str
    unit: str
    container: str
    port: str
    processes: int
    processes_maximum: int | None
    page_tables_bytes: int
    page_tables_ratio: float
    page_tables_maximum_bytes: int
    page_tables_room_bytes: int
    page_tables_remainder_bytes: int | None
    page_tables_largest_bytes: int
    shared_memory_bytes: int
    shared_memory_huge_bytes: int
    huge_pages: bool
    huge_pages_fallback: bool
    preload_lost: bool
    will_run_out: bool
    remedy: str
    remedy_open: bool
    remedy_saving_bytes: int


@dataclass(frozen=True)
class RegionFigures:
    """A region of mshare, its owner and its clients."""

    root: str
    region: str
    owner_alive: bool
    healthy: bool
    window_bytes: int | None
    mapped_bytes: int | None
    clients_requested: int
    clients_attached: int
    clients_dead: int


@dataclass(frozen=True)
class SurveyFigures:
    """The survey that all the figures come from."""

    timestamp_seconds: float
    duration_seconds: float
    complete: bool
    processes: int
    instances: int
    unread: int
    unread_processes: int
    unread_instances: int
    vanished_processes: int


@dataclass(frozen=True)
class Figures:
    """Everything."""

    host: HostFigures
    pools: tuple[PoolFigures, ...]
    instances: tuple[InstanceFigures, ...]
    regions: tuple[RegionFigures, ...]
    survey: SurveyFigures
