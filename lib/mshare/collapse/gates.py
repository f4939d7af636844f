# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps shared memory out of transparent huge pages: for the plan, by a survey, and before a collapse.

Each function answers with the reason, and the way out where there is one; None where nothing is in the way
or it is not known.
"""

from __future__ import annotations

import re

from ..host.segments import SHMEM_KINDS

_KERNEL = (6, 1)


def of_kind(kind: str) -> str | None:
    """By the kind of a segment."""
    if kind in SHMEM_KINDS:
        return None
    return f"a segment of kind {kind} is not shmem memory, and only that can have transparent huge pages"


def of_place(address: int, congruent: bool) -> str | None:
    """By where a segment is mapped."""
    if congruent:
        return None
    return f"its address {address:#x} is not congruent to its offset modulo 2 MiB, so no huge page fits there"


def of_setting(shmem_enabled: str | None) -> str | None:
    """By the chosen word of shmem_enabled."""
    if shmem_enabled != "deny":
        return None
    return (
        "shmem_enabled is deny, which keeps transparent huge pages from all shared memory; write never there,"
        " which leaves all other programs as they are"
    )


def of_process(thp_enabled: bool | None) -> str | None:
    """By THP_enabled of a process."""
    if thp_enabled is not False:
        return None
    return (
        "its processes have transparent huge pages switched off (prctl PR_SET_THP_DISABLE, or MemoryTHP= of"
        " its unit); allow them where the server is started, and restart it"
    )


def of_kernel(release: str | None, known: bool | None = None) -> str | None:
    """By the release of a kernel; `known` is what a try on the host itself has shown."""
    version = re.match(r"([0-9]+)\.([0-9]+)", release or "")
    if known is None:
        known = version is None or (int(version[1]), int(version[2])) >= _KERNEL
    if known:
        return None
    return f"kernel {release} has no MADV_COLLAPSE, which exists since Linux 6.1 with transparent huge pages"
