# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this host's memory allows a region."""

from __future__ import annotations

from . import procfs, rules
from .errors import MshareError
from .units import format_size


def check(mapped_bytes: int, *, overcommit: bool = False, prefault: bool = False) -> None:
    """Refuse what this host cannot hold; see `rules.memory_consent`."""
    memory = procfs.meminfo_bytes()
    rules.memory_consent(
        mapped_bytes,
        memory.get("MemTotal", 0),
        memory.get("MemAvailable", 0),
        overcommit,
        prefault,
    )


def check_together(fills_bytes: dict[str, int]) -> None:
    """Refuse regions, by name, each of which could be prefaulted and not all of them."""
    filled = [name for name, size_bytes in fills_bytes.items() if size_bytes]
    total_bytes = sum(fills_bytes.values())
    available_bytes = procfs.meminfo_bytes().get("MemAvailable", 0)
    if len(filled) > 1 and total_bytes > available_bytes:
        has = format_size(available_bytes)
        raise MshareError(
            f"prefaulting regions {', '.join(filled)} needs {format_size(total_bytes)} of free memory in all"
            f" and this host has {has} available; ask for less, or leave prefault off"
        )
