# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The generations of the kernel's interface: what each can do. How each is called is in `calls`.

Only data, because reading a host's state needs no system call.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import InvalidRequest
from . import abi


@dataclass(frozen=True)
class Features:
    """What a generation can do. Features are separate, because back-ports mix them."""

    size_set_by: str
    """"mmap" (the creator's first), "ioctl" or "ftruncate"."""
    mapping_kinds: tuple[str, ...]
    """Which objects a region can contain: "anonymous", "hugetlb", "file"."""
    explicit_mappings: bool
    """Whether objects are mapped one by one; otherwise the whole window is anonymous memory."""
    unmap: bool
    any_address: bool
    """Whether each process may attach at a different address."""
    owner_bound: bool
    """Whether a region dies with the task that created it."""
    nameless: bool = False
    """Whether a region is a file descriptor of its creator, with no file: names and permissions are this
    library's, and the creator hands the descriptor to others. The region ends when the creator closes it."""
    partial_attach: bool = False
    """Whether a process may attach a part of a region."""
    protect: bool = False
    """Whether the protection of what is mapped can be changed, for all processes at once."""
    advice: tuple[str, ...] = ()
    """The madvise(2) advice that can be given on what is mapped, for all processes at once."""


ADVICE = {
    "dontneed": abi.MADV_DONTNEED,
    "remove": abi.MADV_REMOVE,
    "hugepage": abi.MADV_HUGEPAGE,
    "nohugepage": abi.MADV_NOHUGEPAGE,
}
"""What madvise(2) takes, by the names of it that the library uses."""
Status = Literal["posted", "described, not posted"]


@dataclass(frozen=True)
class Generation:
    """One interface of the kernel."""

    id: str
    origin: str
    """The version of its series, when, and by whom; or where it was described."""
    features: Features
    status: Status = "posted"


_2022_06 = Features(
    size_set_by="mmap",
    mapping_kinds=("anonymous",),
    explicit_mappings=False,
    unmap=False,
    any_address=False,
    owner_bound=False,
)
_2024_09 = replace(_2022_06, size_set_by="ioctl", explicit_mappings=True)
_2025_01 = replace(_2024_09, unmap=True)
_2025_04 = replace(_2025_01, size_set_by="ftruncate", any_address=True)
_2025_08 = replace(_2025_04, mapping_kinds=("anonymous", "hugetlb", "file"), owner_bound=True)
# The described calls are mshare_create, mshare_attach, mshare_map, mshare_advise and mshare_protect: there is
# none that unmaps.
_2026_05 = replace(
    _2025_08,
    unmap=False,
    nameless=True,
    partial_attach=True,
    protect=True,
    advice=tuple(ADVICE),
)

GENERATIONS: dict[str, Generation] = {
    known.id: known
    for known in (
        Generation("2022-06", "v2, June 2022, Khalid Aziz", _2022_06),
        Generation("2024-09", "RFC v3, September 2024, Anthony Yznaga", _2024_09),
        Generation("2025-01", "v1, January 2025, Anthony Yznaga", _2025_01),
        Generation("2025-04", "v2, April 2025, Anthony Yznaga", _2025_04),
        Generation("2025-08", "v3, August 2025, Anthony Yznaga", _2025_08),
    )
}
NEWEST = "2025-08"
# No kernel has these, so nothing may be planned with them: the simulated backend plays them.
DESCRIBED: dict[str, Generation] = {
    known.id: known
    for known in (
        Generation("2026-05", "LSFMM+BPF, May 2026, Anthony Yznaga", _2026_05, "described, not posted"),
    )
}
PLAYED = {**GENERATIONS, **DESCRIBED}
"""What the simulated backend can be."""
# The series that were system calls: their numbers (450-452) belong to other calls of mainline now.
SYSCALL_GENERATIONS = ("2022-01", "2022-04")


def generation(identifier: str) -> Generation:
    """The generation with an id such as "2025-08"; InvalidRequest for an unusable id."""
    if identifier in SYSCALL_GENERATIONS:
        raise InvalidRequest(
            f"generation {identifier} was a set of system calls whose numbers mainline Linux now uses for"
            f" other calls, so calling them is dangerous; use a kernel with one of " + ", ".join(GENERATIONS)
        )
    if identifier not in PLAYED:
        raise InvalidRequest(f"generation {identifier!r} is unknown; use one of " + ", ".join(PLAYED))
    return PLAYED[identifier]


def not_supported(what: str, generation: Generation) -> OSError:
    """EOPNOTSUPP, for a call that a generation does not have."""
    message = f"{os.strerror(errno.EOPNOTSUPP)}: {what} in generation {generation.id}"
    return OSError(errno.EOPNOTSUPP, message)
