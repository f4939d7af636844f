# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this host's memory allows a region, and the file system that it is on."""

from __future__ import annotations

from collections.abc import Mapping

from ..backends import root as roots
from ..errors import InvalidRequest, MshareError
from ..host import procfs
from ..units import format_size


def check(mapped_bytes: int, *, overcommit: bool = False, prefault: bool = False) -> None:
    """Refuse what this host cannot hold; see `rules.memory_consent`."""
    meminfo_bytes = procfs.meminfo_bytes()
    memory_consent(
        mapped_bytes,
        meminfo_bytes.get("MemTotal", 0),
        meminfo_bytes.get("MemAvailable", 0),
        overcommit,
        prefault,
    )


def check_room(region: str, size_bytes: int, root: str) -> None:
    """Refuse to prefault more than a tmpfs has room for: it would answer with SIGBUS at a touch."""
    room_bytes = roots.free_bytes(root)
    if room_bytes is not None and size_bytes > room_bytes:
        raise MshareError(
            f"prefaulting region {region} needs {format_size(size_bytes)} and the tmpfs at {root} has"
            f" {format_size(room_bytes)} left; mount it with a larger size, reduce the region, or turn"
            f" prefault off"
        )


def check_together(fills_bytes: Mapping[str | None, Mapping[str, int]]) -> None:
    """Refuse regions, root -> name -> bytes, each of which could be prefaulted and not all of them."""
    all_bytes = {name: fill for fills in fills_bytes.values() for name, fill in fills.items()}
    total_bytes = sum(all_bytes.values())
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    if len(all_bytes) > 1 and total_bytes > available_bytes:
        has = format_size(available_bytes)
        raise MshareError(
            f"prefaulting regions {', '.join(all_bytes)} needs {format_size(total_bytes)} of free memory"
            f" in total, but this host has {has} available; reduce the size, or turn prefault off"
        )
    for root, fills in fills_bytes.items():
        room_bytes = roots.free_bytes(root) if root else None
        root_bytes = sum(fills.values())
        if room_bytes is not None and root_bytes > room_bytes:
            raise MshareError(
                f"prefaulting regions {', '.join(fills)} needs {format_size(root_bytes)} in total, but the"
                f" tmpfs at {root} has {format_size(room_bytes)} left; mount it with a larger size, reduce"
                f" the region, or turn prefault off"
            )


def memory_consent(
    mapped_bytes: int,
    memory_total_bytes: int,
    available_bytes: int,
    overcommit: bool,
    prefault: bool,
) -> None:
    """Refuse more than the host's RAM unless told that only a part will be touched."""
    size = format_size(mapped_bytes)
    if prefault and mapped_bytes > available_bytes:
        raise MshareError(
            f"prefaulting {size} needs that much free memory, but this host has"
            f" {format_size(available_bytes)} available; reduce the size, or turn prefault off"
        )
    if mapped_bytes > memory_total_bytes and not overcommit:
        raise InvalidRequest(
            f"{size} is more than this host's {format_size(memory_total_bytes)} of RAM; reduce it, or set"
            f" overcommit: true (--overcommit) if only part of it will be touched"
        )
