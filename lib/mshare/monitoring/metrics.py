# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics, as a table: names, labels and meanings.

A metric is called by its family's prefix and a field of the family's record in `figures`. All are gauges, in
bytes, seconds and ratios; what answers yes or no is 1 or 0. A series is named by what stays as it is over
restarts: no process, no inode and no running number. A label that says nothing is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A gauge."""

    field: str
    help: str
    labels: tuple[str, ...] = ()
    """Beside those of its family."""


@dataclass(frozen=True)
class Family:
    """Metrics about one kind of thing."""

    prefix: str
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]

    def name(self, metric: Metric) -> str:
        return f"{self.prefix}_{metric.field}"


HOST = Family(
    "mshare_host",
    (),
    (
        Metric("memory_bytes", "RAM of the host (MemTotal)."),
        Metric("memory_available_bytes", "Memory that can be had without swapping (MemAvailable)."),
        Metric("page_tables_bytes", "Page tables of the host (PageTables)."),
        Metric("page_tables_ratio", "Page tables of the host as a share of its RAM."),
        Metric(
            "page_tables_maximum_bytes",
            "Page tables of the host when every instance has as many processes as it is configured for.",
        ),
        Metric("others_page_tables_bytes", "Page tables of processes that belong to no instance (VmPTE)."),
        Metric(
            "will_run_out",
            "1 when the host, or a cgroup on it, lacks memory for the page tables of the configured maximum.",
        ),
    ),
)
POOL = Family(
    "mshare_huge_page_pool",
    ("page_size",),
    (
        Metric("size_bytes", "Memory that is set aside as huge pages of a size."),
        Metric("free_bytes", "Memory of the pool that nobody has touched yet; promised pages included."),
        Metric("reserved_bytes", "Memory of the pool that is promised and not touched yet."),
        Metric("available_bytes", "Memory that a new mapping can have from the pool."),
        Metric(
            "wanted_bytes",
            "Memory that the pool needs for the instances that take huge pages, and for its other users.",
        ),
        Metric("unused", "1 when the pool has pages and nobody uses any, or has any promised."),
    ),
)
INSTANCE = Family(
    "mshare_instance",
    ("kind", "program", "data_directory", "sid", "unit", "container", "port"),
    (
        Metric("processes", "Processes of an instance."),
        Metric("processes_maximum", "Client processes that an instance is configured for (max_connections)."),
        Metric(
            "page_tables_bytes", "Page tables of all processes of an instance (VmPTE; what they share, once)."
        ),
        Metric("page_tables_ratio", "Page tables of an instance as a share of the host's RAM."),
        Metric(
            "page_tables_maximum_bytes",
            "Page tables of an instance when it has as many processes as it is configured for.",
        ),
        Metric(
            "page_tables_room_bytes",
            "Memory that page tables of an instance can still grow into: available on the host, or left by a"
            " cgroup's limit where that is less.",
        ),
        Metric(
            "page_tables_remainder_bytes",
            "Page tables of an instance that are not due to its shared memory.",
        ),
        Metric("page_tables_largest_bytes", "Page tables of the process of an instance that has the most."),
        Metric("shared_memory_bytes", "Shared memory of an instance, without that of parallel queries."),
        Metric("shared_memory_huge_bytes", "Shared memory of an instance that is in huge pages."),
        Metric("huge_pages", "1 when the shared memory of an instance is in huge pages."),
        Metric(
            "huge_pages_fallback",
            "1 when an instance asks for huge pages (in its configuration, or by default where the host has a"
            " pool) and runs in small pages.",
        ),
        Metric(
            "preload_lost",
            "1 when the preloaded library is asked for and the running server does not have it.",
        ),
        Metric(
            "will_run_out",
            "1 when an instance lacks the memory for the page tables of its configured maximum.",
        ),
        Metric(
            "remedy_open",
            "1 when the plan recommends the remedy for an instance, 0 when there is nothing to do.",
            labels=("remedy",),
        ),
        Metric("remedy_saving_bytes", "Page tables at the maximum that the recommended remedy saves."),
    ),
)
REGION = Family(
    "mshare_region",
    ("root", "region"),
    (
        Metric("owner_alive", "1 when the process that a region lives and dies with runs."),
        Metric("healthy", "1 when a region can be attached."),
        Metric("window_bytes", "Address space of a region."),
        Metric("mapped_bytes", "Memory that is mapped inside a region."),
        Metric("clients_requested", "Clients that a region's launcher was asked for."),
        Metric("clients_attached", "Clients of a region's launcher that live and are attached."),
        Metric("clients_dead", "Clients of a region's launcher that ended before they were told to."),
    ),
)
SURVEY = Family(
    "mshare_survey",
    (),
    (
        Metric("timestamp_seconds", "When the survey was made, in seconds since 1970."),
        Metric("duration_seconds", "How long the survey took."),
        Metric("complete", "1 when everything could be read."),
        Metric("processes", "Processes that the survey read."),
        Metric("instances", "Instances that the survey found."),
        Metric(
            "instances_combined", "Instances that are one series, of kind rest, because there are too many."
        ),
        Metric("unread", "How many things could not be read."),
        Metric("unread_processes", "Processes of which something could not be read."),
        Metric("unread_instances", "Instances of which something could not be read."),
        Metric("vanished_processes", "Processes that ended while they were read."),
    ),
)
EXPORTER = Family(
    "mshare_exporter",
    (),
    (
        Metric("interval_seconds", "Seconds from one survey to the next; 0 when nobody repeats it."),
        Metric("cpu_seconds", "Processor time that the last survey took, and writing it."),
    ),
)
FAMILIES = (HOST, POOL, INSTANCE, REGION, SURVEY, EXPORTER)


def names() -> Iterator[str]:
    """The names of all metrics."""
    for family in FAMILIES:
        for metric in family.metrics:
            yield family.name(metric)
