# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this host's memory allows a region."""

from __future__ import annotations

from . import procfs, rules


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
