# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Surveys of hosts that never were: the schema's shape with figures that a test can reckon with."""

from __future__ import annotations

from typing import Any

from mshare.pagetable import page_tables
from mshare.survey.record import SCHEMA_VERSION, from_fields
from mshare.units import GIB, MIB

PROCESS_BYTES = 256 << 10
"""Page tables each process has for itself."""


def segment(size_bytes: int, processes: int, **fields: Any) -> dict[str, Any]:
    """A segment of which every process touched every 2 MiB."""
    page_bytes = fields.get("page_bytes", 4096)
    return {
        "kind": "anonymous",
        "name": "anonymous shared memory",
        "region": None,
        "key": None,
        "size_bytes": size_bytes,
        "page_bytes": page_bytes,
        "address": 1 << 40,
        "ranges": [{"start": fields.get("address", 1 << 40), "size_bytes": size_bytes}],
        "congruent_2mib": True,
        "aligned_1gib": True,
        "huge_bytes": 0,
        "page_tables_bytes": processes * page_tables(size_bytes, page_bytes).total_bytes,
        "processes": processes,
        "short_lived": False,
        **fields,
    }


def instance(
    name: str, size_bytes: int, processes: int, maximum: int | None = None, **fields: Any
) -> dict[str, Any]:
    segments = [segment(size_bytes, processes)] if size_bytes else []
    shared = sum(segment_fields["page_tables_bytes"] for segment_fields in segments)
    sum_bytes = shared + processes * PROCESS_BYTES
    return {
        "name": name,
        "kind": "postgresql",
        "executable": "/usr/lib/postgresql/15/bin/postgres",
        "unit": None,
        "cgroup": "/",
        "container": None,
        "manager": None,
        "data_directory": f"/var/lib/postgresql/{name}",
        "port": 5432,
        "version": "15",
        "sid": None,
        "processes": processes,
        "helpers": 0,
        "pids": list(range(1000, 1000 + processes)),
        "threads": 1,
        "setuid": False,
        "processes_maximum": {"value": maximum, "source": "max_connections"} if maximum else None,
        "segments": segments,
        "page_tables": {
            "sum_bytes": sum_bytes,
            "average_bytes": sum_bytes // max(1, processes),
            "maximum_bytes": sum_bytes // max(1, processes),
            "segments_bytes": shared,
            "remainder_bytes": processes * PROCESS_BYTES,
            "kind": "measured",
            "segments_kind": "measured",
        },
        "share_of_host_percent": 50.0,
        "huge_pages_requested": None,
        "settings": {},
        "preload": None,
        "thp_disabled": False,
        "limits": [],
        **fields,
    }


def in_huge_pages(name: str, size_bytes: int, processes: int, **fields: Any) -> dict[str, Any]:
    """A database whose memory is in static huge pages, with what VmPTE says of it: a PMD table for each GiB
    in every process."""
    one = instance(name, size_bytes, processes, **fields)
    one["segments"] = [segment(size_bytes, processes, kind="hugetlb", page_bytes=2 * MIB)]
    shared = one["segments"][0]["page_tables_bytes"]
    one["page_tables"].update(
        sum_bytes=shared + processes * PROCESS_BYTES,
        segments_bytes=shared,
        remainder_bytes=processes * PROCESS_BYTES,
    )
    return one


def pool(page_bytes: int, **fields: Any) -> dict[str, Any]:
    """A pool of huge pages, empty by default."""
    counts = {"total": 0, "free": 0, "reserved": 0, "surplus": 0, "overcommit": 0}
    return {"page_bytes": page_bytes, "node": None, **counts, **fields}


SUPPORT = {
    "supported": True,
    "kernel_supported": False,
    "backend": "simulated",
    "root": "/run/msharefs",
    "mounted": False,
    "generation": None,
    "reasons": ["this kernel has no msharefs"],
}


def survey(name: str, instances: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    in_instances = sum(each["page_tables"]["sum_bytes"] for each in instances)
    made = {
        "schema_version": SCHEMA_VERSION,
        "created_at": "2026-11-27T08:00:00+00:00",
        "host": {
            "name": name,
            "kernel": "6.12.0",
            "boot_id": f"boot of {name}",
            "page_tables_bytes": in_instances + 64 * MIB,
            "memory_total_bytes": 512 * GIB,
            "memory_available_bytes": 128 * GIB,
            "huge_page_default_bytes": 2 * MIB,
            "huge_page_pools": [pool(2 * MIB), pool(GIB)],
            "thp": {"anonymous": "madvise", "shmem": "never"},
            "overcommit_memory": "0",
            "hidepid": None,
            "mshare": SUPPORT,
            "pagemap_scan": True,
        },
        "method": {
            "exact": False,
            "threshold_bytes": MIB,
            "samples_per_group": 3,
            "duration_ms": 40,
            "uid": 0,
        },
        "complete": True,
        "missing": [],
        "vanished": 0,
        "instances": instances,
        "others": {"processes": 80, "page_tables_bytes": 40 * MIB},
        **fields,
    }
    # What the product itself would write, and not this file's idea of it.
    return from_fields(made).to_dict()


def fleet(hosts: int) -> dict[str, dict[str, Any]]:
    """Many hosts, no two alike, with one to four instances."""
    return {f"db{number:03}": _varied(f"db{number:03}", number) for number in range(1, hosts + 1)}


def _varied(name: str, number: int) -> dict[str, Any]:
    instances = [
        instance(
            f"{name}-{part}",
            (4 + 37 * number * part % 300) * GIB // part,
            processes := 20 + number * 53 % 400 // part,
            maximum=2 * processes,
        )
        for part in range(1, 2 + number % 4)
    ]
    return survey(name, instances)
