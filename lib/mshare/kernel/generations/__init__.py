# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The generations of the kernel's interface, one file each, and a table of them."""

from __future__ import annotations

from ...errors import InvalidRequest
from .base import Features, Generation
from .v2022_06 import V2022_06
from .v2024_09 import V2024_09
from .v2025_01 import V2025_01
from .v2025_04 import V2025_04
from .v2025_08 import V2025_08

GENERATIONS: dict[str, Generation] = {
    generation.id: generation for generation in (V2022_06(), V2024_09(), V2025_01(), V2025_04(), V2025_08())
}
NEWEST = "2025-08"
# The series that were system calls: their numbers (450-452) belong to other calls of mainline now.
SYSCALL_GENERATIONS = ("2022-01", "2022-04")


def generation(identifier: str) -> Generation:
    """The generation with an id such as "2025-08"; InvalidRequest for an unusable one."""
    if identifier in SYSCALL_GENERATIONS:
        raise InvalidRequest(
            f"generation {identifier} was a set of system calls whose numbers mainline Linux now uses for"
            f" other calls, so calling them is dangerous; use a kernel with one of " + ", ".join(GENERATIONS)
        )
    if identifier not in GENERATIONS:
        raise InvalidRequest(f"generation {identifier!r} is unknown; use one of " + ", ".join(GENERATIONS))
    return GENERATIONS[identifier]


__all__ = ["GENERATIONS", "NEWEST", "SYSCALL_GENERATIONS", "Features", "Generation", "generation"]
